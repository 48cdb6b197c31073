"""What a write would change on which node: the items that it would append, against what is live. Pure."""

from collections.abc import Iterable, Iterator, Mapping

import msgspec
from msgspec import Struct

from kakuremichi.model.families import left_out
from kakuremichi.model.ids import NodeId
from kakuremichi.wire.codec import encode
from kakuremichi.wire.commands import Plan
from kakuremichi.wire.plans import FeedReaders, PlanAction, PlannedChange
from kakuremichi.wire.records import (
    AnyRecord,
    Revocation,
    Rotate,
    Route,
    RouteWithOptions,
    Target,
    UnknownRecord,
    decode_record,
)
from kakuremichi_registry.items import Item

# A message has 64 kB: these leave room for each other.
MOST_BYTES = 36_000
MOST_NODES = 600

KINDS = {"agent-peer": "peer", "gateway-peer": "peer", "rotate": "rotation"}
PEER = "no packet to it or from it any more"

Live = Mapping[tuple[str, str], bytes]
Readers = Mapping[str, tuple[NodeId, ...]]
Known = AnyRecord | UnknownRecord | None


class _ToldOfUpstream(Struct, frozen=True):
    ipv6: bool = False


class _Told(Struct, frozen=True):
    """As much of a route's options as is looked at here, whichever release has written them."""

    upstream: _ToldOfUpstream = _ToldOfUpstream()


NOTHING = Plan(changed=False, changes=(), readers=())
NO_NODE = Plan(changed=True, changes=(), readers=())


def plan(items: Iterable[Item], live: Live, readers: Readers, *, cut: tuple[NodeId, ...] = ()) -> Plan:
    """What the readers of each feed would have to do. `cut` are nodes that lose their certificate.

    `live` are the records that stand now, by feed and path. Items that say nothing new are left out, as they are when
    they are written.
    """
    # What no feed tells concerns the node itself.
    named = {**{f"node.{node}": (node,) for node in cut}, **readers}
    changes = [
        PlannedChange(feed=f"node.{node}", kind="certificate", key=node, action="remove", what="it is a node no more")
        for node in cut
    ]
    for item in items:
        if item.feed in named:
            changes += _changes(item, live.get((item.feed, item.path)))
    told = tuple(_fitting(changes))
    return Plan(
        changed=True, changes=told, left_out=len(changes) - len(told),
        readers=tuple(_readers(named, {change.feed for change in told})),
    )  # fmt: skip


def _changes(item: Item, standing: bytes | None) -> Iterator[PlannedChange]:
    if item.gone if standing is None else standing == item.record:
        return
    kind, _, key = item.path.partition("/")
    before: Known = decode_record(standing) if standing is not None else None
    after: Known = None if item.gone else decode_record(item.record)
    action: PlanAction = "remove" if after is None else "add" if before is None else "change"
    yield PlannedChange(feed=item.feed, kind=KINDS.get(kind, kind), key=key, action=action, what=_what(before, after))
    old, new = _ports(before), _ports(after)
    for port in sorted(old - new):
        yield PlannedChange(feed=item.feed, kind="port", key=port, action="remove", what=f"closed by {kind} {key}")
    for port in sorted(new - old):
        yield PlannedChange(feed=item.feed, kind="port", key=port, action="add", what=f"opened by {kind} {key}")


def _what(before: Known, after: Known) -> str:
    if before is None or after is None:
        return _told(after or before)
    others = before.__struct_fields__ + after.__struct_fields__
    fields = sorted({name for name in others if getattr(before, name, None) != getattr(after, name, None)})
    return f"{_told(after)}; different in {', '.join(fields)}"


def _told(record: Known) -> str:
    match record:
        case Route():
            agents = ", ".join(target.agent for target in record.targets) or "no target"
            told = f"{record.kind} {record.host + record.path or _range(record)} to {agents}"
            missing = left_out(record.kind, _families(record), ranged=record.last_port > record.first_port)
            return f"{told} ({missing})" if missing else told
        case Target():
            return f"{record.proto} to {record.name or record.address} port {record.port}"
        case Revocation():
            return f"keys up to epoch {record.epoch} are worth nothing"
        case Rotate():
            return "it makes another WireGuard key"
        case _:
            return PEER


def _families(route: Route) -> tuple[int]:
    """The IP versions that its targets have."""
    if not isinstance(route, RouteWithOptions):
        return (4,)
    return (6,) if msgspec.msgpack.decode(route.options, type=_Told).upstream.ipv6 else (4,)


def _ports(record: Known) -> set[str]:
    match record:
        case Route(kind="tcp" | "udp"):
            return {f"{record.kind} {_range(record)}"}
        case Target():
            first, last = record.agent_port, record.agent_last_port
            return {f"{record.proto} {first}-{last}" if last > first else f"{record.proto} {first}"}
        case _:
            return set()


def _range(route: Route) -> str:
    return f"{route.first_port}-{route.last_port}" if route.last_port > route.first_port else str(route.first_port)


def _fitting(changes: Iterable[PlannedChange]) -> Iterator[PlannedChange]:
    room = MOST_BYTES
    for change in changes:
        room -= len(encode(change))
        if room < 0:
            return
        yield change


def _readers(readers: Readers, feeds: set[str]) -> Iterator[FeedReaders]:
    room = MOST_NODES
    for feed in sorted(feeds):
        nodes = readers[feed][:room]
        room -= len(nodes)
        yield FeedReaders(feed=feed, nodes=nodes, left_out=len(readers[feed]) - len(nodes))
