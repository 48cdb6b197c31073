"""Finished spans by core NATS to the portals, and into streams for portals that start later.

Nobody waits for an ack: a trace is worth no queue and no wait.
"""

import asyncio
from collections import deque

import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import SpanContext, StatusCode

from kakuremichi.bus.port import Bus, BusError
from kakuremichi.runtime.waiting import first_of
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import encode
from kakuremichi.wire.spans import MOST_LINKS, MOST_SPANS, SpanBatch, SpanKindName, SpanRecord

log = structlog.get_logger(__name__)

GATHER_S = 0.25
MOST_WAITING = 4096
MOST_BYTES = 48_000  # and one more span; a message may have 65,536
_NAMED = f" {subjects.TRACE}"  # how the spans of our own messages end
_KINDS: dict[str, SpanKindName] = {
    "SERVER": "server", "CLIENT": "client", "PRODUCER": "producer", "CONSUMER": "consumer",
}  # fmt: skip


class SpanMail(SpanProcessor):
    """Gathers the spans of this process; `run` sends them to `subject` from the event loop, without a thread."""

    def __init__(self, bus: Bus, subject: str) -> None:
        self._bus, self._subject = bus, subject
        self._waiting: deque[ReadableSpan] = deque()
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.dropped = 0
        self.sent = 0

    def on_end(self, span: ReadableSpan) -> None:
        """From whichever thread ended the span."""
        context = span.get_span_context()
        if context is None or not context.trace_flags.sampled or span.name.endswith(_NAMED):
            return
        if len(self._waiting) >= MOST_WAITING:
            self.dropped += 1
            return
        self._waiting.append(span)
        if len(self._waiting) == 1 and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await first_of(self._wake, stop)
            await first_of(stop, timeout_s=GATHER_S)
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        while self._waiting:
            batch = self._take()
            try:
                await self._bus.publish(self._subject, encode(SpanBatch(spans=batch)))
                self.sent += len(batch)
            except BusError:
                self.dropped += len(batch)

    def _take(self) -> tuple[SpanRecord, ...]:
        """As many as one message holds."""
        batch, size = list[SpanRecord](), 0
        while self._waiting and len(batch) < MOST_SPANS and size < MOST_BYTES:
            batch.append(span_record(self._waiting.popleft()))
            size += len(encode(batch[-1]))
        return tuple(batch)


def post_spans(bus: Bus, subject: str) -> SpanMail:
    """From now on the spans of this process go there too; run the result's loop."""
    mail = SpanMail(bus, subject)
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.add_span_processor(mail)
    return mail


def span_record(span: ReadableSpan) -> SpanRecord:
    context = span.get_span_context()
    place = _place(context) if context else bytes(24)
    failed = span.status.status_code is StatusCode.ERROR
    return SpanRecord(
        name=span.name[:128],
        trace_id=place[:16],
        span_id=place[16:],
        parent_id=span.parent.span_id.to_bytes(8, "big") if span.parent else b"",
        start_ns=span.start_time or 0,
        end_ns=span.end_time or 0,
        kind=_KINDS.get(span.kind.name, "internal"),
        error=(span.status.description or "error")[:256] if failed else "",
        links=tuple(_place(link.context) for link in span.links[:MOST_LINKS]),
    )


def _place(context: SpanContext) -> bytes:
    return context.trace_id.to_bytes(16, "big") + context.span_id.to_bytes(8, "big")
