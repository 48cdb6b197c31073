"""Records: the whole desired state of one key in a feed, or its tombstone. Never what changed inside.

Sent by the control plane, so read tolerantly within a tag: a field may be added only if ignoring it grants
nothing, else it is a new tag.
"""

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, Raw, Struct

from kakuremichi.model.ids import LogId, NodeIdField, ServiceIdField
from kakuremichi.model.keys import PublicKeyField
from kakuremichi.wire.codec import WireError, decode_any
from kakuremichi.wire.identity import Hash
from kakuremichi.wire.signing import Signed

Proto = Literal["tcp", "udp"]
Kind = Literal["http", "tls", "tcp", "udp"]
Port = Annotated[int, Meta(ge=1, le=65535)]
IPV6_OF_NAME = "::"  # as a target's address beside its name: the site's resolver is asked for IPv6


class Record(Struct, frozen=True, kw_only=True, array_like=True):
    """Base of what a feed carries."""


class AgentPeer(Record, frozen=True, kw_only=True, tag="agent-peer.v1"):
    """To gateways: an agent of the pool and its key."""

    node_id: NodeIdField
    certificate: Signed
    announcement: Signed


class GatewayPeer(Record, frozen=True, kw_only=True, tag="gateway-peer.v1"):
    """To agents: a gateway of the pool, its key and where it is reached."""

    node_id: NodeIdField
    certificate: Signed
    announcement: Signed


class RouteTarget(Struct, frozen=True, kw_only=True, array_like=True):
    target_id: str
    agent: NodeIdField
    agent_port: Port  # first port of a range
    weight: int = 100
    priority: int = 0  # higher ones are used only when no lower one is left
    drain: bool = False


class Route(Record, frozen=True, kw_only=True, tag="route.v1"):
    """To gateways: a service and where its visitors go."""

    service_id: ServiceIdField
    kind: Kind
    host: str  # http and tls: the name, lower case, or `*.` and the rest of it; else ""
    path: str  # http: a path prefix, "" for all
    first_port: int  # tcp and udp: the public ports; else 0
    last_port: int
    sources: tuple[str, ...]  # who may visit, in CIDR form; () is everybody
    targets: tuple[RouteTarget, ...]  # () is the state "no-target"
    policy: str = ""
    certificates: tuple[str, ...] = ()


class RouteWithOptions(Route, frozen=True, kw_only=True, tag="route.v2"):
    """The same with what a gateway that knows only the other would pass over: a path, a wildcard, options.

    The control plane sends it only where it is needed; which options there are is no part of the tag.
    """

    options: Raw  # kakuremichi.model.options.Options as a map with names; one that is not understood refuses the route


class Target(Record, frozen=True, kw_only=True, tag="target.v1"):
    """To one agent: a port on its tunnel address and the private service behind it."""

    target_id: str
    service_id: ServiceIdField
    proto: Proto
    agent_port: Port  # first of a range; a range keeps its numbers
    agent_last_port: Port
    address: str  # literal address; "" if `name` is to be resolved at the site, IPV6_OF_NAME if to IPv6
    name: str
    port: Port
    check: str = ""


class Revocation(Record, frozen=True, kw_only=True, tag="revocation.v1"):
    """Keys of this node up to and including `epoch` are worth nothing any more."""

    node_id: NodeIdField
    epoch: int


class Rotate(Record, frozen=True, kw_only=True, tag="rotate.v1"):
    """To one node: it shall have another WireGuard key than this one. A key that was replaced never comes back."""

    node_id: NodeIdField
    request_id: str
    public_key: PublicKeyField


class Gone(Record, frozen=True, kw_only=True, tag="gone.v1"):
    """The tombstone of one key: `kind` is the tag without its version."""

    kind: str
    key: str


AnyRecord = AgentPeer | GatewayPeer | Route | RouteWithOptions | Target | Revocation | Rotate | Gone
TAGS = tuple(sorted(str(kind.__struct_config__.tag) for kind in get_args(AnyRecord)))


class FeedItem(Struct, frozen=True, kw_only=True, array_like=True):
    """One message of a feed. Its SHA-256 (over the bytes as signed) is the next item's `prev_hash`."""

    log_id: LogId
    feed: str
    feed_seq: Annotated[int, Meta(ge=1)]  # dense: a missing number is a lost message
    prev_hash: Hash
    record: Raw


class Head(Struct, frozen=True, kw_only=True, array_like=True):
    """How far a feed has come: the beacon, and the anchor of a snapshot."""

    log_id: LogId
    feed: str
    feed_seq: Annotated[int, Meta(ge=0)]
    hash: Hash  # of the last item, zeros before the first
    count: Annotated[int, Meta(ge=0)]  # live records
    sum: Hash  # SHA-256 of every live item's body, added modulo 2^256, big endian
    at_ms: int  # Unix ms, for people; never for order


class UnknownRecord(Struct, frozen=True):
    """A tag that this program does not know: the cursor moves on, the node reports it.

    Of every record, also of those to come, the field after the tag is its key.
    """

    tag: str
    key: str


def decode_record(raw: bytes) -> AnyRecord | UnknownRecord:
    """The record of a feed item; :class:`WireError` if it is none at all."""
    try:
        tag, key = (msgspec.msgpack.decode(part, type=str) for part in msgspec.msgpack.decode(raw, type=list[Raw])[:2])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise WireError(f"record: not an array that begins with its tag and its key ({error})") from error
    if tag not in TAGS:
        return UnknownRecord(tag, key)
    record: AnyRecord = decode_any(raw, AnyRecord, name=tag)
    return record


def tag_of(kind: type[Record]) -> str:
    return str(kind.__struct_config__.tag)


def key_of(record: AnyRecord | UnknownRecord) -> tuple[str, str]:
    """(kind, key): what a later record with the same pair replaces whole. The kind is the tag without its version."""
    if isinstance(record, Gone):
        return record.kind, record.key
    if isinstance(record, UnknownRecord):
        return record.tag.rpartition(".v")[0], record.key
    kind = str(record.__struct_config__.tag).rpartition(".v")[0]
    return kind, str(getattr(record, record.__struct_fields__[0]))
