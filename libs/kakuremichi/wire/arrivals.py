"""When items of feeds came to nodes, as the registry heard it: kept in a stream for portals that start later.

All moments are of the registry's clock; a node says only durations.
"""

from typing import Annotated

from msgspec import Meta, Struct

from kakuremichi.model.ids import LogId, NodeIdField
from kakuremichi.wire.requests import Answer, Text

MOST_ARRIVALS = 400  # of one message, which has room for as many of the longest names

Us = Annotated[int, Meta(ge=0, description="Microseconds")]


class NodeArrival(Struct, frozen=True, array_like=True):
    """One item at one node."""

    node_id: NodeIdField
    heard_us: Us  # when the report came, since 1970
    decided_us: Us  # since the item was received
    applied_us: Us
    age_us: Us | None = None  # from the receipt until the report was made; None: a node of an earlier release


class ItemArrivals(Struct, frozen=True, array_like=True):
    """One item at those nodes that told of it at once."""

    log_id: LogId
    feed: Text
    feed_seq: int
    nodes: tuple[NodeArrival, ...]


class ArrivalBatch(Answer, frozen=True, kw_only=True, tag="arrivals.v1"):
    items: tuple[ItemArrivals, ...]
