"""What a report says of the passes that it tells of: durations for the portal's clock, and a place in their traces."""

import asyncio
import time

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext

from kakuremichi.bus.memory import MemoryBus, MemoryNats
from kakuremichi.bus.port import BusError, Message
from kakuremichi.model.ids import NodeId
from kakuremichi.node import reporting
from kakuremichi.node.reporting import Reporter
from kakuremichi.node.worker import MOST_TIMINGS, Done
from kakuremichi.reconcile.follower import Follower
from kakuremichi.reconcile.holding import Holding
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.requests import ReportAnswer, TimedReport, Timing

GW = NodeId("gw1")
FEED = "feed.pool.main"


class Registry:
    """Answers reports, unless it is told to be silent."""

    def __init__(self) -> None:
        self.reports: list[TimedReport] = []
        self.silent = False

    async def serve(self, bus: MemoryBus) -> None:
        async def take(message: Message) -> None:
            self.reports.append(decode(message.data, TimedReport))
            if not self.silent:
                await bus.publish(message.reply, encode(ReportAnswer(heads=())))

        await bus.subscribe(subjects.REPORT, take)


@pytest.fixture
async def registry() -> Registry:
    return Registry()


@pytest.fixture
async def reporter(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Reporter:
    monkeypatch.setattr(reporting, "TIMEOUT_S", 0.2)
    nats = MemoryNats()
    await registry.serve(nats.connect("registry"))
    bus = nats.connect(subjects.reply_prefix(GW))
    follower = Follower(bus, GW, Holding(FEED), None, None, lambda _applied: None)  # type: ignore[arg-type]
    return Reporter(bus, GW, bytes(16), (follower,))


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(reporting, "tracer", provider.get_tracer("test"))
    return exporter


def done(*seqs: int, span: SpanContext | None = None, received_ns: int | None = None) -> Done:
    timings = tuple(Timing(FEED, seq, 100, 200) for seq in seqs)
    received = time.monotonic_ns() if received_ns is None else received_ns
    return Done({FEED: max(seqs)}, {}, timings, (received,) * len(seqs), span)


def context(number: int) -> SpanContext:
    return SpanContext(number, number, is_remote=False, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED))


async def test_each_timing_has_its_age_at_the_moment_of_the_report(reporter: Reporter, registry: Registry) -> None:
    reporter.done(done(1, received_ns=time.monotonic_ns() - 5_000_000_000))
    reporter.done(done(2))
    await reporter.send()
    (report,) = registry.reports
    assert [timing.feed_seq for timing in report.timings] == [1, 2]
    older, newer = report.ages_us
    assert older >= 5_000_000 > newer >= 0


async def test_what_was_not_answered_is_said_again_and_what_was_is_not(reporter: Reporter, registry: Registry) -> None:
    registry.silent = True
    reporter.done(done(1))
    with pytest.raises(BusError):
        await reporter.send()
    registry.silent = False
    reporter.done(done(2))
    await reporter.send()
    await reporter.send()
    assert [[timing.feed_seq for timing in report.timings] for report in registry.reports] == [[1], [1, 2], []]
    assert [len(report.ages_us) for report in registry.reports] == [1, 2, 0]


async def test_a_pass_that_ends_while_a_report_is_under_way_is_in_the_next(
    reporter: Reporter, registry: Registry
) -> None:
    reporter.done(done(1))
    sending = asyncio.create_task(reporter.send())
    await asyncio.sleep(0)
    reporter.done(done(2))
    await sending
    await reporter.send()
    assert sorted(timing.feed_seq for report in registry.reports for timing in report.timings) == [1, 2]


async def test_only_the_newest_timings_are_kept(reporter: Reporter, registry: Registry) -> None:
    for seq in range(1, 101):
        reporter.done(done(seq))
    await reporter.send()
    (report,) = registry.reports
    assert [timing.feed_seq for timing in report.timings] == list(range(101 - MOST_TIMINGS, 101))
    assert len(report.ages_us) == MOST_TIMINGS


async def test_a_report_is_a_step_of_the_trace_it_tells_of_and_linked_to_the_others(
    reporter: Reporter, registry: Registry, finished: InMemorySpanExporter
) -> None:
    reporter.done(done(1, span=context(7)))
    reporter.done(done(2, span=context(8)))
    await reporter.send()
    await reporter.send()  # tells of nothing: no step of any trace
    (span,) = finished.get_finished_spans()
    assert span.name == "report"
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (7, 7)
    assert [link.context.trace_id for link in span.links] == [8]
