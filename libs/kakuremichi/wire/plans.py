"""What a write would do, as a dry run tells it: the parts of a plan."""

from typing import Literal

from msgspec import Struct

from kakuremichi.model.ids import NodeIdField

PlanAction = Literal["add", "change", "remove"]


class PlannedChange(Struct, frozen=True, kw_only=True):
    """What one kind of thing becomes on all readers of a feed: a route, port, target, peer, certificate, …"""

    feed: str
    kind: str
    key: str
    action: PlanAction
    what: str  # a sentence for people


class FeedReaders(Struct, frozen=True, kw_only=True):
    feed: str
    nodes: tuple[NodeIdField, ...]
    left_out: int = 0  # more nodes than one answer can name
