"""A node's next certificate: signed here, or proposed to trust keys that lie elsewhere, when two thirds are over."""

import time
from base64 import b64encode
from collections.abc import Callable

import structlog
from msgspec.structs import replace

from kakuremichi.model.ids import NodeId
from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.facts import NodeRenewed
from kakuremichi.wire.identity import Certificate
from kakuremichi.wire.renewal import certificate_is_due
from kakuremichi.wire.requests import CertificateRenewed, CertificateWaiting, RenewalRefused
from kakuremichi.wire.signing import Signed
from kakuremichi_registry.database import Database, StaleError
from kakuremichi_registry.store import renewals
from kakuremichi_registry.store.entries import entry_of
from kakuremichi_registry.store.renewals import Seen
from kakuremichi_registry.trust import Trust, valid_from

log = structlog.get_logger(__name__)

Answer = CertificateRenewed | CertificateWaiting | RenewalRefused


def standing_answer(seen: Seen | None, node: NodeId, now: float) -> Answer | None:
    """What is to be said without a new certificate; None if there has to be one. Pure."""
    if seen is None:
        return RenewalRefused(code="unknown-node", detail=f"node {node}: is not enrolled any more")
    if seen.quarantined:
        return RenewalRefused(
            code="quarantined", detail=f"node {node}: two holders of its identity were seen; release it first"
        )
    if seen.next is not None and not certificate_is_due(decode(seen.next.body, Certificate), now):
        return CertificateRenewed(certificate=seen.next) if seen.complete else CertificateWaiting()
    if not certificate_is_due(decode(seen.certificate.body, Certificate), now):
        return RenewalRefused(code="not-due", detail=f"certificate of {node}: has more than a third of its life left")
    return None


def proposal(seen: Seen, now: float) -> Certificate:
    """As the one that stands, with other dates and a serial that was never signed. Pure."""
    not_before, not_after = valid_from(now)
    serial = max(seen.serial, seen.next_serial) + 1
    return replace(
        decode(seen.certificate.body, Certificate), serial=serial, not_before=not_before, not_after=not_after
    )


def renewed(certificate: Certificate, signed: Signed, *, needed: int) -> NodeRenewed:
    """The fact of a next certificate, or of one more signature on it. Pure."""
    return NodeRenewed(
        node_id=certificate.node_id, serial=certificate.serial, hosts=certificate.hosts, ports=certificate.ports,
        signatures=len(signed.signatures), needed=needed, certificate=b64encode(encode(signed)).decode(),
    )  # fmt: skip


class Renewals:
    """Answers nodes that ask for their next certificate."""

    def __init__(self, database: Database, trust: Trust, *, now: Callable[[], float] = time.time) -> None:
        self._database, self._trust, self._now = database, trust, now

    async def answer(self, node: NodeId) -> Answer:
        """:class:`StaleError` if something else became of the node meanwhile: the node asks again."""
        now = self._now()
        seen = await renewals.see(self._database, node)
        said = standing_answer(seen, node, now)
        if said is not None or seen is None:
            return said or RenewalRefused(code="unknown-node", detail=f"node {node}: is not enrolled any more")
        await self._write(node, seen, proposal(seen, now))
        return standing_answer(await renewals.see(self._database, node), node, now) or _busy(node)

    async def _write(self, node: NodeId, seen: Seen, certificate: Certificate) -> None:
        signed = self._trust.certify(certificate)
        fact = renewed(certificate, signed, needed=self._trust.members.threshold)
        try:
            await renewals.renew(
                self._database, entry_of(fact, None, actor=f"node/{node}"), node, seen,
                serial=certificate.serial, signed=signed, complete=not self._trust.offline,
            )  # fmt: skip
        except StaleError as error:
            log.info("another replica was faster", node=node, reason=str(error))
            return
        log.info("certificate proposed", node=node, serial=certificate.serial, complete=not self._trust.offline)


def _busy(node: NodeId) -> RenewalRefused:
    return RenewalRefused(code="unavailable", detail=f"certificate of {node}: changed meanwhile; ask again")
