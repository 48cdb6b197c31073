"""Credentials of the bus for nodes: a JWT for the next day, for whoever the database says is a node now."""

import time
from collections import OrderedDict
from collections.abc import Callable

import structlog

from kakuremichi.bus.issuer import MintRefusedError, NodeIssuer
from kakuremichi.model.ids import NodeId
from kakuremichi.wire.codec import WireError, decode
from kakuremichi.wire.commands import AccessRenewed, RenewAccess
from kakuremichi.wire.identity import Certificate
from kakuremichi.wire.renewal import VALID_S, claimed, is_proven
from kakuremichi.wire.requests import AnyRenew, RenewalRefused, RenewCertificate, Renewed
from kakuremichi.wire.signing import Signed
from kakuremichi.wire.subjects import node_of
from kakuremichi_registry.database import Database, DatabaseUnavailableError
from kakuremichi_registry.refusal import Refusal
from kakuremichi_registry.renewals import Answer, Renewals
from kakuremichi_registry.store import nodes, renewals
from kakuremichi_registry.trust import Trust

log = structlog.get_logger(__name__)

MOST_REMEMBERED = 20_000  # renewals: a fleet that comes back after days asks once each


class Passes:
    def __init__(
        self, database: Database, trust: Trust, issuer: NodeIssuer, *, now: Callable[[], float] = time.time
    ) -> None:
        self._database, self._trust, self._issuer, self._now = database, trust, issuer, now
        self._renewals = Renewals(database, trust, now=now)
        self._answered: OrderedDict[bytes, float] = OrderedDict()

    def of(self, certificate: Signed) -> str:
        """The JWT of a node whose certificate has just been signed or looked up."""
        node = decode(certificate.body, Certificate)
        return self._issuer.mint(node.role, node.identity_key, node.node_id, node.pool)

    async def answer(self, subject: str, request: AnyRenew) -> Renewed | Answer:
        """On the bus: nats-server lets nobody but the node itself use the subject."""
        node = node_of(subject)
        try:
            if isinstance(request, RenewCertificate):
                return await self._renewals.answer(node)
            certificate = await nodes.certificate_of(self._database, node)
        except DatabaseUnavailableError as error:
            return RenewalRefused(code="unavailable", detail=str(error))
        if certificate is None:
            return RenewalRefused(code="unknown-node", detail=f"node {node}: is not enrolled any more")
        try:
            jwt = self.of(certificate)
        except MintRefusedError as error:
            return RenewalRefused(code="malformed", detail=str(error))
        log.info("access renewed", node=node, way="bus")
        return Renewed(jwt=jwt)

    @staticmethod
    def refuse(error: WireError) -> RenewalRefused:
        return RenewalRefused(code="malformed", detail=str(error))

    async def renew(self, command: RenewAccess) -> AccessRenewed:
        """Over HTTP. One refusal for everything, so that a stranger learns nothing about nodes that exist."""
        try:
            said = claimed(command.renewal)
        except WireError as error:
            raise _refused() from error
        held = await renewals.of_serial(self._database, said.node_id, said.serial)
        if held is None or not self._is_from(held.certificate, command.renewal):
            log.info("renewal refused", node=said.node_id, source=command.source)
            raise _refused()
        self._remember(said.node_id, said.nonce)
        log.info("access renewed", node=said.node_id, way="http")
        return AccessRenewed(jwt=self.of(held.certificate))

    def _is_from(self, certificate: Signed, renewal: Signed) -> bool:
        node = decode(certificate.body, Certificate)
        return is_proven(renewal, self._trust.deployment, node.identity_key, self._now())

    def _remember(self, node: NodeId, nonce: bytes) -> None:
        """Answer a request once: a copy of it would be harmless, and is not worth the work."""
        now, key = self._now(), node.encode() + b"/" + nonce
        while self._answered and next(iter(self._answered.values())) < now - 2 * VALID_S:
            self._answered.popitem(last=False)
        if key in self._answered:
            raise _refused()
        self._answered[key] = now
        if len(self._answered) > MOST_REMEMBERED:
            self._answered.popitem(last=False)


def _refused() -> Refusal:
    return Refusal(
        403, "renewal-refused", "renewal: not by a node that is enrolled, or its clock is more than 5 minutes off"
    )
