"""Traces that the portal keeps itself: spans of all services and nodes, put together by their trace id.

Who sent a span is told by its subject, never by its content. A node that sends nonsense can fill only what is kept
for traces that no write began, and only so many spans of any other.
"""

import asyncio
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from kakuremichi.bus.port import Bus, Message, Subscription
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import WireError, decode
from kakuremichi.wire.spans import SpanBatch, SpanRecord

MOST_WRITES = 2000  # traces that a write through a portal began
MOST_OTHERS = 200
MOST_OF_ONE_PROCESS = 200  # spans in one trace
MOST_OF_ONE_TRACE = 20_000
MOST_IN_ALL = 150_000  # about 110 MB
_PORTAL = subjects.service_spans("portal")
_WRITES = ("POST ", "PUT ", "DELETE ", "PATCH ")


class KeptSpan(NamedTuple):
    process: str
    record: SpanRecord
    parent_id: bytes  # in this trace; b"" for its root


@dataclass(slots=True)
class KeptTrace:
    """`spans` by their id. One that is shared with another trace stands in both."""

    written: bool = False
    truncated: bool = False
    spans: dict[bytes, KeptSpan] = field(default_factory=dict)
    by_process: Counter[str] = field(default_factory=Counter)


class Traces:
    def __init__(
        self, *, most_writes: int = MOST_WRITES, most_others: int = MOST_OTHERS, most_spans: int = MOST_IN_ALL
    ) -> None:
        self._writes: OrderedDict[bytes, KeptTrace] = OrderedDict()
        self._others: OrderedDict[bytes, KeptTrace] = OrderedDict()
        self._most_writes, self._most_others, self._most_spans = most_writes, most_others, most_spans
        self.spans = 0
        self.refused = 0

    async def listen(self, bus: Bus, after: asyncio.Event | None = None) -> Subscription:
        """What comes before `after` is set waits: the oldest trace is forgotten first, so older ones must be here."""

        async def hear(message: Message) -> None:
            if after is not None:
                await after.wait()
            self.take(message)

        return await bus.subscribe(subjects.TRACE, hear)

    def join(self, message: Message) -> None:
        """Take a stored message: spans of traces that are known. With the services' spans read first, others are of
        traces that are forgotten, or that no service knows.
        """
        self.take(message, known_only=True)

    def take(self, message: Message, *, known_only: bool = False) -> None:
        try:
            batch = decode(message.data, SpanBatch)
        except WireError:
            self.refused += 1
            return
        process = message.subject.rpartition(".")[2]
        for span in batch.spans:
            began = message.subject == _PORTAL and _begins_a_write(span)
            if not known_only or self.find(span.trace_id):
                self._take(span.trace_id, KeptSpan(process, span, span.parent_id), began=began)
            for place in span.links:
                if not known_only or self.find(place[:16]):
                    self._take(place[:16], KeptSpan(process, span, place[16:]))

    def find(self, trace_id: bytes) -> KeptTrace | None:
        return self._writes.get(trace_id) or self._others.get(trace_id)

    def __len__(self) -> int:
        return len(self._writes) + len(self._others)

    def _take(self, trace_id: bytes, span: KeptSpan, *, began: bool = False) -> None:
        kept, process, span_id = self.find(trace_id), span.process, span.record.span_id
        if kept is None:
            kept = self._others[trace_id] = KeptTrace()
        if span_id in kept.spans:
            return
        if kept.by_process[process] >= MOST_OF_ONE_PROCESS or len(kept.spans) >= MOST_OF_ONE_TRACE:
            kept.truncated = True
            return
        kept.spans[span_id] = span
        kept.by_process[process] += 1
        self.spans += 1
        if began and not kept.written:
            kept.written = True
            self._others.pop(trace_id, None)
            self._writes[trace_id] = kept
        self._forget()

    def _forget(self) -> None:
        while len(self._others) > self._most_others:
            self._drop(self._others)
        while len(self._writes) > self._most_writes:
            self._drop(self._writes)
        while self.spans > self._most_spans and len(self) > 1:
            self._drop(self._others or self._writes)

    def _drop(self, traces: OrderedDict[bytes, KeptTrace]) -> None:
        _, gone = traces.popitem(last=False)
        self.spans -= len(gone.spans)


def _begins_a_write(span: SpanRecord) -> bool:
    return span.kind == "server" and span.name.startswith(_WRITES)
