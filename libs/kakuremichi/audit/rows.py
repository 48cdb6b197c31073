"""Rows of the truth in their canonical encoding: one JSON line each, equal bytes for equal rows. Pure.

The fields of these structs, in their order, are the columns; `docs/audit.md` says the same in words. Bytes are base64,
nothing is `null`, there is no white space. Lines are sorted by their bytes: each begins with its table and its key.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

from kakuremichi.model.options import Options


class Row(Struct, frozen=True, kw_only=True, tag_field="table", forbid_unknown_fields=True):
    """Base: one row of one table. The first field, or the first two, are its key."""


class FreedHost(Row, frozen=True, kw_only=True, tag="freed_host"):
    """A host name that rests: only its former service may take it. Gone once 24 hours are over."""

    host: str
    service_id: str
    until: str | UnsetType = UNSET  # kept while folding; no part of the canonical line, see `canonical`


class FreedSlot(Row, frozen=True, kw_only=True, tag="freed_slot"):
    pool: str
    slot: int
    freed_at: str | UnsetType = UNSET  # the same


class JoinToken(Row, frozen=True, kw_only=True, tag="join_token"):
    """Until it expires, used or not. Its secret is nowhere."""

    token_id: str
    role: str
    node_id: str
    pool: str
    expires_at: str
    used: bool


class Node(Row, frozen=True, kw_only=True, tag="node"):
    """Also of nodes that were removed: serial and epoch go on where they stopped."""

    node_id: str
    role: str
    pool: str
    slot: int  # 0: an agent
    subnet: str  # "": a gateway
    identity_key: bytes
    sealing_key: bytes
    certificate: bytes
    serial: int
    epoch: int
    announcement: bytes  # empty before the first
    announced_hash: bytes
    public_key: bytes
    endpoints: tuple[str, ...]
    networks: tuple[str, ...]  # sorted
    pending: bool
    quarantined: bool
    removed: bool
    revoked: bool


class NodeKey(Row, frozen=True, kw_only=True, tag="node_key_history"):
    public_key: bytes
    node_id: str
    epoch: int


class NodeRenewal(Row, frozen=True, kw_only=True, tag="node_renewal"):
    """The next certificate of a node that has not come to it yet."""

    node_id: str
    serial: int
    certificate: bytes
    complete: bool


class Pool(Row, frozen=True, kw_only=True, tag="pool"):
    pool: str


class RevokedIdentity(Row, frozen=True, kw_only=True, tag="revoked_identity"):
    identity_key: bytes
    node_id: str


class Service(Row, frozen=True, kw_only=True, tag="service"):
    service_id: str
    pool: str
    kind: str
    host: str
    path: str
    first_port: int
    last_port: int
    sources: tuple[str, ...]
    options: dict[str, Any]  # see `options_of`
    updated_seq: int
    source: str | UnsetType = UNSET  # unset is nobody's


class ServiceTarget(Row, frozen=True, kw_only=True, tag="service_target"):
    target_id: str
    service_id: str
    agent: str
    proto: str
    agent_port: int
    agent_last_port: int
    address: str
    port: int


class SpentSerial(Row, frozen=True, kw_only=True, tag="spent_serial"):
    """The last serial of a node that was gone before it came to its next certificate."""

    node_id: str
    serial: int


AnyRow = (
    FreedHost
    | FreedSlot
    | JoinToken
    | Node
    | NodeKey
    | NodeRenewal
    | Pool
    | RevokedIdentity
    | Service
    | ServiceTarget
    | SpentSerial
)
KEYS: dict[type[Row], tuple[str, ...]] = {
    FreedHost: ("host",),
    FreedSlot: ("pool", "slot"),
    JoinToken: ("token_id",),
    Node: ("node_id",),
    NodeKey: ("public_key",),
    NodeRenewal: ("node_id",),
    Pool: ("pool",),
    RevokedIdentity: ("identity_key",),
    Service: ("service_id",),
    ServiceTarget: ("target_id",),
    SpentSerial: ("node_id",),
}

# Tables of the registry that are no part of the state, and why.
NOT_FOLDED = {
    "account": "people and the hashes of their passwords; what they did is in the log, a password never",
    "access_log": "refusals and failed attempts; strangers cannot write into the log",
    "checkpoint": "says something about the log",
    "checkpoint_witness": "says something about the log",
    "cut_identity": "tells the bus whom to disconnect; follows from node, forgotten after 30 days",
    "deployment": "settings and public keys, from the registry's files",
    "event_log": "is the log",
    "feed_head": "follows from the other tables: what nodes are told",
    "feed_item": "the same",
    "feed_live": "the same",
    "idempotency": "answers to repetitions, forgotten after 24 hours",
    "log_cut": "what is left of rows that have left with an export",
    "log_cut_run": "says something about the log",
    "log_head": "is the log's own place: sequence and hash",
    "log_run": "says something about the log",
    "migration": "the release of the schema",
    "portal_session": "who is signed in at the moment",
    "relay_cursor": "how far the relay has come",
    "report": "what nodes say; not a fact",
    "setup_code": "the hash of a code that makes the first account, good for an hour",
    "state_snapshot": "a state that was folded already",
}

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyRow)


class RowRefusedError(ValueError):
    """The line is no row of ours; a sentence."""


def table_of(row: Row | type[Row]) -> str:
    return str(row.__struct_config__.tag)


def key_of(row: Row) -> tuple[str, ...]:
    """(table, key…): what no other row has."""
    values = (getattr(row, name) for name in KEYS[type(row)])
    return (table_of(row), *(_text(value) for value in values))


def _text(value: object) -> str:
    return msgspec.to_builtins(value) if isinstance(value, bytes) else str(value)


def options_of(options: Options | UnsetType | str) -> dict[str, Any]:
    """What a service asks for beyond the usual, members sorted, without those that only repeat a default.

    Text is the table's JSON.
    """
    if options is UNSET:
        return {}
    given = msgspec.json.decode(options) if isinstance(options, str) else msgspec.to_builtins(options, str_keys=True)
    return _without_empty(given)


def _without_empty(given: dict[str, Any]) -> dict[str, Any]:
    held = {name: _without_empty(each) if isinstance(each, dict) else each for name, each in sorted(given.items())}
    return {name: each for name, each in held.items() if each not in ({}, [])}


def canonical(row: Row) -> bytes:
    """The line of the row, without its end.

    The moments that two tables keep are left out: the tables' clocks are read before the log's turn comes, so they
    differ from the log's `at` by that wait. They count for who is left out of the state at which moment.
    """
    if isinstance(row, FreedHost) and row.until is not UNSET:
        row = structs.replace(row, until=UNSET)
    elif isinstance(row, FreedSlot) and row.freed_at is not UNSET:
        row = structs.replace(row, freed_at=UNSET)
    return _encoder.encode(row)


def lines(rows: Iterable[Row]) -> list[bytes]:
    return sorted(map(canonical, rows))


def whole(row: Row) -> bytes:
    """The line with those moments, as snapshots keep it."""
    return _encoder.encode(row)


def parse(line: bytes | str) -> AnyRow:
    try:
        row: AnyRow = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RowRefusedError(f"row: {error}") from error
    return row
