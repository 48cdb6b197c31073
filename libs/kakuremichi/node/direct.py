"""Peers that say their new key themselves, because no control plane brings it.

What comes this way is judged as if a feed had brought it, and by stricter rules: only a node that the feed still
lists may move its own key forward. So nobody joins, and nobody who was removed or revoked comes back, without the
control plane. A record kept here gives way to the feed's as soon as that is as new.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from kakuremichi.model.addresses import AddressRefusedError
from kakuremichi.model.ids import PoolName
from kakuremichi.node.state import NodeState
from kakuremichi.reconcile.epochs import Epochs
from kakuremichi.reconcile.holding import Key
from kakuremichi.reconcile.verify import NotTrustedError, Verifier
from kakuremichi.runtime.files import write_atomically
from kakuremichi.wire.codec import WireError, decode, decode_kept, encode
from kakuremichi.wire.direct import Exchange
from kakuremichi.wire.identity import Announcement, Certificate, Role
from kakuremichi.wire.records import AgentPeer, AnyRecord, GatewayPeer

log = structlog.get_logger()

PeerRecord = AgentPeer | GatewayPeer
KINDS: dict[Role, str] = {"agent": "agent-peer", "gateway": "gateway-peer"}


class DirectRefusedError(Exception):
    """What a peer said directly is not taken; a sentence."""


@dataclass
class DirectRecords:
    """The newest records that came directly. `path` None keeps them in memory only."""

    path: Path | None = None
    _records: dict[Key, PeerRecord] = field(default_factory=dict)
    _unsaved: bool = False

    @classmethod
    def load(cls, path: Path) -> "DirectRecords":
        """Nothing that is read is trusted: every record goes through the same checks again before it is used."""
        records = cls(path)
        try:
            kept: tuple[PeerRecord, ...] = decode_kept(path.read_bytes(), tuple[PeerRecord, ...], name=str(path))
        except FileNotFoundError:
            return records
        except WireError as error:
            log.warning("direct records not read", reason=str(error))
            return records
        records._records = {_key_of(record): record for record in kept}
        return records

    def prefer(self, key: Key, listed: AnyRecord | None) -> AnyRecord | None:
        """The newer one of the feed's record and ours. Where the feed lists the node no more, ours is forgotten."""
        own = self._records.get(key)
        if own is None:
            return listed
        if isinstance(listed, AgentPeer | GatewayPeer) and _position(listed) < _position(own):
            return own
        del self._records[key]
        self._unsaved = True
        return listed

    def put(self, record: PeerRecord) -> None:
        self._records[_key_of(record)] = record
        self._unsaved = True

    def flush(self) -> None:
        """Save what has changed. Before the epochs are: with the epoch alone the peer could not be had again."""
        if not self._unsaved or self.path is None:
            return
        try:
            write_atomically(self.path, encode(tuple(self._records.values())))
        except OSError as error:
            log.warning("direct records not saved", file=str(self.path), reason=str(error))
            return
        self._unsaved = False


@dataclass
class DirectPeers:
    """Judges exchanges with peers of `role` in `pool`. `check` is the model's own judgement of a record."""

    role: Role
    pool: PoolName
    verifier: Verifier
    epochs: Epochs
    records: DirectRecords
    listed: Callable[[Key], AnyRecord | None]  # what the feed says, as it is held
    check: Callable[[PeerRecord], None]
    changed: Callable[[frozenset[Key]], None]

    def take(self, exchange: Exchange) -> bool:
        """Take the peer's announcement. False if it is known already; :class:`DirectRefusedError` if it is refused."""
        try:
            return self._take(exchange)
        except (NotTrustedError, WireError, AddressRefusedError, ValueError) as error:
            raise DirectRefusedError(str(error)) from error

    def announced(self, record: AnyRecord | None) -> Announcement | None:
        """What a listed peer says, if its signatures are in order; None if it is none of ours or was revoked."""
        if not isinstance(record, AgentPeer | GatewayPeer):
            return None
        try:
            cert, said = self.verifier.peer(record.certificate, record.announcement, self.role, new=False)
        except (NotTrustedError, WireError):
            return None
        revoked = self.epochs.revoked.get(cert.node_id, 0) >= said.epoch
        return None if revoked or cert.pool != self.pool or cert.node_id != record.node_id else said

    def _take(self, exchange: Exchange) -> bool:
        # Dates count here for every peer: this way is for those that are in order, the feed for all that was applied.
        cert, said = self.verifier.peer(exchange.certificate, exchange.announcement, self.role, new=True)
        record = _record(self.role, cert, exchange)
        key = _key_of(record)
        self._check_listed(key, cert)
        self.check(record)
        held = self.records.prefer(key, self.listed(key))
        if isinstance(held, AgentPeer | GatewayPeer) and _position(held) == _position(record):
            return False
        self.records.put(record)
        self.changed(frozenset({key}))
        log.info("key taken directly", node=cert.node_id, epoch=said.epoch)
        return True

    def _check_listed(self, key: Key, cert: Certificate) -> None:
        listed = self.listed(key)
        if cert.pool != self.pool or not isinstance(listed, AgentPeer | GatewayPeer):
            raise NotTrustedError(f"{cert.node_id}: no {self.role} of pool {self.pool} by the last known feed")
        serial, epoch = _position(listed)
        if cert.serial < serial:
            raise NotTrustedError(f"{cert.node_id}: certificate {cert.serial} was replaced by {serial}")
        # A node that was revoked may sign as many newer epochs as it likes: only the feed brings it back.
        if self.epochs.revoked.get(cert.node_id, 0) >= epoch:
            raise NotTrustedError(f"{cert.node_id}: revoked")


def own_exchange(state: NodeState) -> Exchange:
    """What this node says of itself: its certificate and its newest announcement."""
    enrolment, kept = state.enrolment(), state.announcement()
    if enrolment is None or kept is None:
        raise DirectRefusedError("this node has made no key yet")
    return Exchange(certificate=enrolment.answer.certificate, announcement=kept[0])


def _record(role: Role, cert: Certificate, exchange: Exchange) -> PeerRecord:
    make = AgentPeer if role == "agent" else GatewayPeer
    return make(node_id=cert.node_id, certificate=exchange.certificate, announcement=exchange.announcement)


def _key_of(record: PeerRecord) -> Key:
    return ("agent-peer" if isinstance(record, AgentPeer) else "gateway-peer"), str(record.node_id)


def _position(record: PeerRecord) -> tuple[int, int]:
    """(serial, epoch) as the record says, signatures not looked at: who takes it checks them. (0, 0) for nonsense."""
    try:
        return (
            decode(record.certificate.body, Certificate).serial,
            decode(record.announcement.body, Announcement).epoch,
        )
    except WireError:
        return (0, 0)
