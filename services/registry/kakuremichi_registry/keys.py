"""A node's new WireGuard key: checked once more against the stored certificate, decided by one transaction."""

from base64 import b64encode
from dataclasses import dataclass

import structlog

from kakuremichi.model.addresses import AddressRefusedError, Endpoint, parse_endpoint
from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import KeyRefusedError, check_public_key, key_text
from kakuremichi.wire import signing
from kakuremichi.wire.codec import WireError, decode, encode
from kakuremichi.wire.facts import KeyAnnounced
from kakuremichi.wire.identity import Announcement, Certificate
from kakuremichi.wire.key_requests import (
    AcceptKey,
    AcceptKeyAfter,
    AnyKeyRequest,
    GetCertificate,
    GetCertificateOf,
    NodeCertificate,
)
from kakuremichi.wire.records import AgentPeer, GatewayPeer
from kakuremichi.wire.requests import KeyAccepted, KeyRefused
from kakuremichi.wire.signing import SignatureRefusedError, Signed
from kakuremichi.wire.subjects import fleet_feed, pool_feed
from kakuremichi_registry import clones
from kakuremichi_registry.database import Database, DatabaseUnavailableError, StaleError
from kakuremichi_registry.items import Item, put
from kakuremichi_registry.store import nodes, renewals, upkeep
from kakuremichi_registry.store.entries import entry_of
from kakuremichi_registry.trust import Trust

log = structlog.get_logger(__name__)


def refused(code: str, detail: str, *, epoch: int = 0) -> KeyRefused:
    return KeyRefused(code=code, detail=detail, epoch=epoch)


def unknown(node: NodeId) -> KeyRefused:
    return refused("unknown-node", f"node {node}: is not enrolled, or with another certificate")


def peer_item(certificate: Certificate, signed_certificate: Signed, announcement: Signed) -> Item:
    """What the other side of the pool is told: gateways of an agent, agents of a gateway."""
    if certificate.role == "agent":
        peer = AgentPeer(node_id=certificate.node_id, certificate=signed_certificate, announcement=announcement)
        return put(pool_feed(certificate.pool), peer)
    gateway = GatewayPeer(node_id=certificate.node_id, certificate=signed_certificate, announcement=announcement)
    return put(fleet_feed(certificate.pool), gateway)


@dataclass(frozen=True, slots=True)
class Sound:
    """An announcement whose form and signature were checked."""

    announcement: Signed
    said: Announcement
    endpoints: tuple[Endpoint, ...]
    follows: tuple[bytes, ...]  # hashes of the announcements that it comes after
    certificate: Certificate
    signed_certificate: Signed
    renewed: bool  # the certificate is the node's next one


class Keys:
    """Answers the keyring."""

    def __init__(self, database: Database, trust: Trust) -> None:
        self._database, self._trust = database, trust

    async def answer(self, _subject: str, request: AnyKeyRequest) -> KeyAccepted | KeyRefused | NodeCertificate:
        try:
            if isinstance(request, GetCertificate):
                return self._known(request.node_id, await nodes.certificate_of(self._database, request.node_id))
            if isinstance(request, GetCertificateOf):
                return self._known(request.node_id, await self._certificate(request.node_id, request.serial))
            return await self._accept(request)
        except (DatabaseUnavailableError, StaleError) as error:
            return refused("unavailable", str(error))

    @staticmethod
    def refuse(error: WireError) -> KeyRefused:
        return refused("malformed", str(error))

    async def _certificate(self, node: NodeId, serial: int) -> Signed | None:
        """The one of this serial; if there is none, the one that stands, which says what would be right."""
        found = await renewals.of_serial(self._database, node, serial)
        return found.certificate if found else await nodes.certificate_of(self._database, node)

    def _known(self, node: NodeId, signed: Signed | None) -> NodeCertificate | KeyRefused:
        if signed is None:
            return unknown(node)
        return NodeCertificate(deployment=self._trust.deployment, trust=self._trust.trust_set, certificate=signed)

    async def _accept(self, request: AcceptKey | AcceptKeyAfter) -> KeyAccepted | KeyRefused:
        try:
            said = decode(request.announcement.body, Announcement)
            check_public_key(said.public_key)
            endpoints = tuple(parse_endpoint(text) for text in said.endpoints)
        except (WireError, KeyRefusedError, AddressRefusedError) as error:
            return refused("malformed", str(error))
        held = await renewals.of_serial(self._database, said.node_id, said.serial)
        if held is None:
            return unknown(said.node_id)
        certificate = decode(held.certificate.body, Certificate)
        try:
            signing.verify(
                signing.ANNOUNCEMENT, self._trust.deployment, request.announcement, {certificate.identity_key}
            )
        except SignatureRefusedError as error:
            return refused("bad-signature", str(error))
        before = request.before if isinstance(request, AcceptKeyAfter) else ()
        follows = clones.follows(said, before, self._trust.deployment, certificate.identity_key)
        sound = Sound(request.announcement, said, endpoints, follows, certificate, held.certificate, held.next)
        answer = await self._write(sound)
        return answer or await self._conflict(said, certificate)

    async def _write(self, sound: "Sound") -> KeyAccepted | KeyRefused | None:
        """The answer; None if the announcement does not follow the one that stands."""
        said, endpoints = sound.said, sound.endpoints
        fact = KeyAnnounced(
            node_id=said.node_id, public_key=key_text(said.public_key), epoch=said.epoch,
            endpoints=tuple(map(str, endpoints)), announcement=b64encode(encode(sound.announcement)).decode(),
            certificate=b64encode(encode(sound.signed_certificate)).decode() if sound.renewed else "",
        )  # fmt: skip
        entry = entry_of(fact, None, actor=f"node/{said.node_id}")
        outcome = await nodes.accept_key(
            self._database, entry, items=(peer_item(sound.certificate, sound.signed_certificate, sound.announcement),),
            signed=sound.announcement, said=said, endpoints=endpoints, follows=sound.follows, renewed=sound.renewed,
        )  # fmt: skip
        log.info("key decided", node=said.node_id, outcome=outcome.outcome, epoch=said.epoch)
        match outcome.outcome:
            case "accepted" | "same":
                return KeyAccepted(epoch=outcome.epoch)
            case "not-newer":
                return refused(
                    "not-newer",
                    f"announcement of {said.node_id}: epoch {said.epoch} is not above {outcome.epoch}",
                    epoch=outcome.epoch,
                )
            case "conflict":
                return None
            case "quarantined":
                return clones.quarantined(said.node_id)
            case "held":
                return refused("held", f"public key of {said.node_id}: was used before; make a new one")
            case _:
                return unknown(said.node_id)

    async def _conflict(self, said: Announcement, certificate: Certificate) -> KeyRefused:
        standing = await nodes.standing_announcement(self._database, said.node_id)
        if standing is None:
            return unknown(said.node_id)
        fact = clones.quarantine(said, decode(standing.body, Announcement), certificate)
        entry = entry_of(fact, None, actor=f"node/{said.node_id}")
        try:
            await upkeep.quarantine(self._database, entry, said.node_id, fact.epoch)
            log.warning("node quarantined", node=said.node_id, boot_id=fact.boot_id, said_boot_id=fact.said_boot_id)
        except StaleError:
            # Quarantined by another announcement, or moved on meanwhile: this one stays refused, the next is judged.
            log.info("conflict is of yesterday", node=said.node_id)
        return clones.quarantined(said.node_id)
