"""From positions of an event, the registry's nodes and what was heard to the waterfall. Pure."""

from collections.abc import Container, Iterable, Mapping
from datetime import datetime
from itertools import chain

from kakuremichi.wire.commands import EventPositions, NodeView
from kakuremichi_portal.propagation import Arrival, Arrivals, Position, percentile, stages
from kakuremichi_portal.propagation_shapes import (
    EventPropagation,
    FleetPropagation,
    NodeBehind,
    NodePropagation,
    StageFigures,
    StageName,
)
from kakuremichi_portal.shapes import KeyedError

Cursors = Mapping[tuple[str, str], int]  # (node, feed) → how far it has applied the feed
GONE = ("revoked", "pending")  # nothing is expected of them
STAGES: tuple[StageName, ...] = ("deliver", "decide", "apply", "report")


def reads(node: NodeView, feed: str) -> bool:
    if node.role == "gateway":
        return feed == f"feed.pool.{node.pool}"
    return feed in (f"feed.fleet.{node.pool}", f"feed.agent.{node.node_id}")


def event_propagation(
    event: EventPositions, log_id: str, nodes: Iterable[NodeView], arrivals: Arrivals, cursors: Cursors
) -> EventPropagation:
    """`cursors`: newer ones than the registry's."""
    positions = [(log_id, feed, feed_seq) for feed, feed_seq in event.positions]
    expected = [node for node in nodes if node.state not in GONE]
    rows = tuple(
        _row(node, position, seconds(event.at), arrivals.of(position, node.node_id), cursors)
        for position in positions
        for node in expected
        if reads(node, position[1])
    )
    times = [row.applied_ms for row in rows if row.applied_ms is not None]
    states = [row.state for row in rows]
    return EventPropagation(
        seq=event.seq, at=event.at, topic=event.topic, trace_id=event.trace_id, nodes=rows,
        applied=states.count("applied"), pending=states.count("pending"), offline=states.count("offline"),
        p50_ms=percentile(times, 50), p99_ms=percentile(times, 99),
    )  # fmt: skip


def _row(
    node: NodeView, position: Position, written_at: float, arrival: Arrival | None, cursors: Cursors
) -> NodePropagation:
    _, feed, feed_seq = position
    said = feed_seq if arrival is not None else 0
    cursor = max(dict(node.cursors).get(feed, 0), cursors.get((node.node_id, feed), 0), said)
    drawn = stages(arrival, written_at) if arrival is not None else ()
    applied = cursor >= feed_seq
    return NodePropagation(
        node=node.node_id, role=node.role, feed=feed, feed_seq=feed_seq, cursor=cursor,
        state="applied" if applied else "pending" if node.state in ("live", "quarantined") else "offline",
        reason="" if applied else why_behind(node, f"{feed}: has applied {cursor}, the change is {feed_seq}"),
        applied_ms=next((each.start_ms for each in drawn if each.name == "report"), None) if len(drawn) > 1 else None,
        stages=drawn,
        errors=tuple(KeyedError(key=key, message=message) for key, message in node.errors),
    )  # fmt: skip


def why_behind(node: NodeView, otherwise: str) -> str:
    if node.state == "enrolled":
        return "has never reported"
    if node.state == "offline":
        return f"offline: its last report came at {node.last_report_at}"
    said = [f"{key}: {message}" for key, message in node.errors] + list(node.warnings)
    return "; ".join(said[:3]) or otherwise


def fleet_propagation(
    events: Iterable[EventPositions], log_id: str, nodes: Iterable[NodeView], arrivals: Arrivals,
    *, only: Container[str] | None = None,
) -> FleetPropagation:  # fmt: skip
    """`only`: the nodes whose times count; None is all that were heard."""
    touched = [event for event in events if event.positions]
    times: list[float] = []
    lasted: dict[str, list[float]] = {name: [] for name in STAGES}
    for event in touched:
        written_at = seconds(event.at)
        heard = chain.from_iterable(arrivals.at((log_id, *position)) for position in event.positions)
        for arrival in (arrival for node, arrival in heard if only is None or node in only):
            drawn = stages(arrival, written_at)
            if len(drawn) > 1:
                times.append(drawn[-1].start_ms)
                for stage in drawn:
                    lasted[stage.name].append(stage.end_ms - stage.start_ms)
    return FleetPropagation(
        events=len(touched), samples=len(times), p50_ms=percentile(times, 50), p99_ms=percentile(times, 99),
        stages=tuple(_figures(name, lasted[name]) for name in STAGES if lasted[name]),
        behind=tuple(_behind(node) for node in nodes if node.behind and node.state not in GONE),
    )  # fmt: skip


def _figures(name: StageName, samples: list[float]) -> StageFigures:
    p50, p99 = (round(percentile(samples, percent) or 0.0, 2) for percent in (50, 99))
    return StageFigures(name=name, p50_ms=p50, p99_ms=p99)


def _behind(node: NodeView) -> NodeBehind:
    return NodeBehind(
        node=node.node_id, role=node.role, state=node.state, behind=node.behind,
        reason=why_behind(node, "its newest report is older than the change, or it is at work"),
        last_report_at=node.last_report_at,
    )  # fmt: skip


def seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
