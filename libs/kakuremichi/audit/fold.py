"""The fold: what each fact does to the state, as the registry's SQL does it to the tables. Pure."""

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import structs

from kakuremichi.audit.chain import LogRow
from kakuremichi.audit.rows import (
    FreedHost,
    FreedSlot,
    JoinToken,
    Node,
    NodeKey,
    NodeRenewal,
    Pool,
    RevokedIdentity,
    Service,
    ServiceTarget,
    SpentSerial,
    options_of,
)
from kakuremichi.audit.state import State
from kakuremichi.wire import facts
from kakuremichi.wire.codec import WireError, decode
from kakuremichi.wire.identity import Certificate
from kakuremichi.wire.signing import Signed

HOST_RESTS = timedelta(hours=24)

_decoder = msgspec.json.Decoder(facts.AnyFact)


class FoldError(ValueError):
    """A row of the log that this release cannot apply to the state; a sentence that names it."""


def fold(state: State, rows: Iterable[LogRow]) -> State:
    """Apply the rows, which follow the state's own place, to `state` itself; :class:`FoldError` for the first misfit.

    The chain is not checked here: see `kakuremichi.audit.verify`.
    """
    for row in rows:
        if row.seq != state.seq + 1:
            raise FoldError(f"log row {row.seq}: {state.seq + 1} is missing before it")
        try:
            fact = _decoder.decode(row.fact)
            _APPLY[type(fact)](state, fact, row)
        except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error, WireError) as error:
            raise FoldError(f"log row {row.seq}: {error}; was it written by a newer release?") from error
        except KeyError as error:
            raise FoldError(f"log row {row.seq}: {row.topic} of {error}, which no row before it has made") from error
        state.seq, state.hash, state.at = row.seq, row.hash, row.at
    return state


def _token_created(state: State, fact: facts.TokenCreated, _row: LogRow) -> None:
    state.pools.setdefault(fact.pool, Pool(pool=fact.pool))
    state.tokens[fact.token_id] = JoinToken(
        token_id=fact.token_id, role=fact.role, node_id=fact.node_id, pool=fact.pool, expires_at=fact.expires_at,
        used=False,
    )  # fmt: skip


def _enrolled(state: State, fact: facts.NodeEnrolled, _row: LogRow) -> None:
    if (token := state.tokens.get(fact.token_id)) is not None:  # else it has expired within this second
        state.tokens[fact.token_id] = structs.replace(token, used=True)
    signed = _bytes(fact.certificate)
    before = state.nodes.get(fact.node_id)
    state.nodes[fact.node_id] = Node(
        node_id=fact.node_id, role=fact.role, pool=fact.pool, slot=fact.slot, subnet=fact.subnet,
        identity_key=_bytes(fact.identity_key), sealing_key=_certificate(signed).sealing_key if signed else b"",
        certificate=signed, serial=fact.serial, epoch=before.epoch if before else 0, announcement=b"",
        announced_hash=b"", public_key=b"", endpoints=fact.endpoints, networks=tuple(sorted(set(fact.networks))),
        pending=fact.pending, quarantined=False, removed=False, revoked=False,
    )  # fmt: skip
    state.freed_slots.pop((fact.pool, fact.slot), None)


def _certified(state: State, fact: facts.NodeCertified, _row: LogRow) -> None:
    signed = _bytes(fact.certificate)
    changes: dict[str, Any] = {"certificate": signed} if signed else {}
    _change(state, fact.node_id, pending=fact.signatures < fact.needed, **changes)


def _renewed(state: State, fact: facts.NodeRenewed, _row: LogRow) -> None:
    state.renewals[fact.node_id] = NodeRenewal(
        node_id=fact.node_id, serial=fact.serial, certificate=_bytes(fact.certificate),
        complete=fact.signatures >= fact.needed,
    )  # fmt: skip


def _announced(state: State, fact: facts.KeyAnnounced, _row: LogRow) -> None:
    if renewed := _bytes(fact.certificate):
        _change(state, fact.node_id, certificate=renewed, serial=_certificate(renewed).serial)
        state.renewals.pop(fact.node_id, None)
    key, signed = _bytes(fact.public_key), _bytes(fact.announcement)
    _change(
        state, fact.node_id, epoch=fact.epoch, public_key=key, endpoints=fact.endpoints, announcement=signed,
        announced_hash=hashlib.sha256(decode(signed, Signed).body).digest() if signed else b"",
    )  # fmt: skip
    # A key belongs to the node and the epoch that it first came with.
    state.node_keys.setdefault(key, NodeKey(public_key=key, node_id=fact.node_id, epoch=fact.epoch))


def _removed(state: State, fact: facts.NodeRemoved, row: LogRow) -> None:
    if state.nodes[fact.node_id].revoked:  # gone since then; now its name is free
        _change(state, fact.node_id, revoked=False)
    else:
        _cut_off(state, fact, row)


def _revoked(state: State, fact: facts.NodeRevoked, row: LogRow) -> None:
    _cut_off(state, fact, row)
    _change(state, fact.node_id, revoked=True)
    identity = _bytes(fact.identity_key)
    state.revoked.setdefault(identity, RevokedIdentity(identity_key=identity, node_id=fact.node_id))


def _cut_off(state: State, fact: facts.NodeRemoved | facts.NodeRevoked, row: LogRow) -> None:
    _change(state, fact.node_id, removed=True)
    if renewal := state.renewals.pop(fact.node_id, None):
        spent = state.spent_serials.get(fact.node_id)
        serial = max(renewal.serial, spent.serial if spent else 0)
        state.spent_serials[fact.node_id] = SpentSerial(node_id=fact.node_id, serial=serial)
    for name in fact.services:
        state.services[name] = structs.replace(state.services[name], updated_seq=row.seq)
        state.targets[name] = tuple(target for target in state.targets.get(name, ()) if target.agent != fact.node_id)
    node = state.nodes[fact.node_id]
    if node.role == "gateway":
        state.freed_slots[node.pool, node.slot] = FreedSlot(pool=node.pool, slot=node.slot, freed_at=row.at)


def _quarantined(state: State, fact: facts.NodeQuarantined, _row: LogRow) -> None:
    _change(state, fact.node_id, quarantined=True)


def _released(state: State, fact: facts.NodeReleased, _row: LogRow) -> None:
    _change(state, fact.node_id, quarantined=False, announced_hash=b"")


def _published(state: State, fact: facts.ServicePublished, row: LogRow) -> None:
    old = state.services.get(fact.service_id)
    state.put_service(
        Service(
            service_id=fact.service_id, pool=fact.pool, kind=fact.kind, host=fact.host, path=fact.path,
            first_port=fact.first_port, last_port=fact.last_port, sources=fact.sources,
            options=options_of(fact.options), updated_seq=row.seq, source=fact.source,
        )
    )  # fmt: skip
    proto, more = "udp" if fact.kind == "udp" else "tcp", fact.last_port - fact.first_port
    state.targets[fact.service_id] = tuple(
        ServiceTarget(
            target_id=target.target_id, service_id=fact.service_id, agent=target.agent, proto=proto,
            agent_port=target.agent_port, agent_last_port=target.agent_port + more, address=target.address,
            port=target.port,
        )
        for target in fact.targets
    )  # fmt: skip
    if old is not None and old.host != fact.host:
        _free_host(state, old, row)
    if fact.host:
        state.freed_hosts.pop(fact.host, None)


def _unpublished(state: State, fact: facts.ServiceUnpublished, row: LogRow) -> None:
    old = state.services[fact.service_id]
    state.drop_service(fact.service_id)
    state.targets.pop(fact.service_id, None)
    _free_host(state, old, row)


def _free_host(state: State, old: Service, row: LogRow) -> None:
    """A host name rests once no service has it any more."""
    if old.host and not state.host_users.get(old.host):
        until = datetime.fromisoformat(row.at) + HOST_RESTS
        state.freed_hosts[old.host] = FreedHost(
            host=old.host, service_id=old.service_id, until=until.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        )


def _nothing(_state: State, _fact: facts.Fact, _row: LogRow) -> None:
    """What changes no row of the state: a node has yet to do it, or it is about people, their ways in, or the log."""


_APPLY: dict[type[facts.Fact], Callable[[State, Any, LogRow], None]] = {
    facts.TokenCreated: _token_created,
    facts.NodeEnrolled: _enrolled,
    facts.NodeCertified: _certified,
    facts.NodeRenewed: _renewed,
    facts.KeyAnnounced: _announced,
    facts.NodeRemoved: _removed,
    facts.NodeRevoked: _revoked,
    facts.RotationRequested: _nothing,
    facts.NodeQuarantined: _quarantined,
    facts.NodeReleased: _released,
    facts.ServicePublished: _published,
    facts.ServiceUnpublished: _unpublished,
    facts.SetupOpened: _nothing,
    facts.AccountCreated: _nothing,
    facts.AccountChanged: _nothing,
    facts.AccountRemoved: _nothing,
    facts.PersonSignedIn: _nothing,
    facts.PersonSignedOut: _nothing,
    facts.SessionsEnded: _nothing,
    facts.ApiTokenCreated: _nothing,
    facts.ApiTokenRemoved: _nothing,
    facts.LogRetired: _nothing,
}
FOLDED = frozenset(_APPLY)


def _change(state: State, node_id: str, **changes: Any) -> None:
    state.nodes[node_id] = structs.replace(state.nodes[node_id], **changes)


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _certificate(signed: bytes) -> Certificate:
    return decode(decode(signed, Signed).body, Certificate)
