"""What the API answers about the way of a change to the nodes."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from kakuremichi.wire.identity import Role
from kakuremichi_portal.shapes import KeyedError

StageName = Literal["deliver", "decide", "apply", "report"]
Ms = Annotated[float, Meta(description="Milliseconds since the change was written.")]


class Stage(Struct, frozen=True, kw_only=True):
    name: StageName
    start_ms: Ms
    end_ms: Ms


class NodePropagation(Struct, frozen=True, kw_only=True):
    """One feed of one node: a row of the waterfall."""

    node: str
    role: Role
    feed: str
    feed_seq: Annotated[int, Meta(description="How far the feed came with this change.")]
    cursor: Annotated[int, Meta(description="How far the node has applied the feed.")]
    state: Annotated[
        Literal["applied", "pending", "offline"],
        Meta(description="`offline`: no report for 90 s, or none at all; it applies the change when it returns."),
    ]
    reason: Annotated[str, Meta(description="Why it is not applied; empty if it is.")] = ""
    applied_ms: Annotated[float | None, Meta(description="null: not applied, or not known (any more) when.")] = None
    stages: tuple[Stage, ...] = ()
    errors: Annotated[tuple[KeyedError, ...], Meta(description="What the node could not apply, of any change.")] = ()


class EventPropagation(Struct, frozen=True, kw_only=True):
    seq: int
    at: str
    topic: str
    trace_id: str
    nodes: Annotated[
        tuple[NodePropagation, ...], Meta(description="Empty: no feed was touched, or its items are forgotten.")
    ]
    applied: int
    pending: int
    offline: int
    p50_ms: float | None
    p99_ms: float | None


class StageFigures(Struct, frozen=True, kw_only=True):
    """How long a stage took."""

    name: StageName
    p50_ms: float
    p99_ms: float


class NodeBehind(Struct, frozen=True, kw_only=True):
    node: str
    role: Role
    state: str
    behind: Annotated[int, Meta(description="Items of its feeds that it has not reported as applied.")]
    reason: str
    last_report_at: str


class FleetPropagation(Struct, frozen=True, kw_only=True):
    events: Annotated[int, Meta(description="How many of the newest events touched a feed.")]
    samples: Annotated[int, Meta(description="How often a node had one of them applied, as far as it was heard.")]
    p50_ms: float | None
    p99_ms: float | None
    stages: tuple[StageFigures, ...]
    behind: tuple[NodeBehind, ...]
