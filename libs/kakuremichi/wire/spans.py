"""Spans on their way to the portals, which keep them for a while. Diagnosis only: nothing is decided by them."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from kakuremichi.wire.requests import Request

MOST_SPANS = 200  # of one message
MOST_LINKS = 32

SpanKindName = Literal["internal", "server", "client", "producer", "consumer"]
SpanId = Annotated[bytes, Meta(min_length=8, max_length=8)]
TraceId = Annotated[bytes, Meta(min_length=16, max_length=16)]
Place = Annotated[bytes, Meta(min_length=24, max_length=24)]  # a trace's id and that of a span in it


class SpanRecord(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One finished span. Times are nanoseconds since 1970 by the clock of who made it; names hold no ids."""

    name: Annotated[str, Meta(max_length=128)]
    trace_id: TraceId
    span_id: SpanId
    parent_id: Annotated[bytes, Meta(max_length=8)]  # b"" for a root
    start_ns: Annotated[int, Meta(ge=0)]
    end_ns: Annotated[int, Meta(ge=0)]
    kind: SpanKindName = "internal"
    error: Annotated[str, Meta(max_length=256)] = ""
    links: Annotated[tuple[Place, ...], Meta(max_length=MOST_LINKS)] = ()  # of other traces that the step is part of


class SpanBatch(Request, frozen=True, kw_only=True, tag="spans.v1"):
    """Who sends it is told by the subject, which the server lets nobody else use."""

    spans: Annotated[tuple[SpanRecord, ...], Meta(max_length=MOST_SPANS)]
