import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanContext

from kakuremichi.bus import spans
from kakuremichi.bus.memory import MemoryNats
from kakuremichi.bus.port import BusUnavailableError, Message
from kakuremichi.runtime import sampling
from kakuremichi.runtime.trace_context import continued

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNRECORDED = "00-1af7651916cd43dd8448eb211c80319c-c7ad6b7169203331-00"


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(spans, "_tracer", provider.get_tracer("test"))
    return exporter


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


async def test_one_trace_runs_from_the_write_over_the_bus_into_the_handler(finished: InMemorySpanExporter) -> None:
    nats = MemoryNats()
    registry, gateway = nats.connect("registry"), nats.connect("reply.gw-1")

    async def apply(_: Message) -> None:
        await gateway.publish("report.gw-1", b"applied")

    await gateway.subscribe("feed.pool.blue", apply)
    await (await registry.store("feed.pool.blue", b"x", headers={"traceparent": PARENT, "Nats-Msg-Id": "log:1"}))
    await nats.idle()

    found = by_name(finished)
    assert set(found) == {"store feed.pool.*", "process feed.pool.*", "publish report.*"}
    chain = [found["store feed.pool.*"], found["process feed.pool.*"], found["publish report.*"]]
    parents = [span.parent.span_id for span in chain if span.parent]
    contexts = [span.get_span_context() for span in chain]
    assert parents == [0xB7AD6B7169203331, *(context.span_id for context in contexts[:2] if context)]
    assert {context.trace_id for context in contexts if context} == {0x0AF7651916CD43DD8448EB211C80319C}
    attributes = found["store feed.pool.*"].attributes
    assert attributes is not None
    assert attributes["messaging.system"] == "nats"
    assert attributes["messaging.message.id"] == "log:1"


async def test_no_span_names_an_id_or_keeps_the_subject(finished: InMemorySpanExporter) -> None:
    nats = MemoryNats()
    gateway = nats.connect("reply.gw-1")
    with pytest.raises(BusUnavailableError):
        await gateway.request("req.registry.snapshot.gw-1", b"", timeout_s=1)

    (span,) = finished.get_finished_spans()
    assert span.name == "request req.*.*.*"
    assert "gw-1" not in str(list((span.attributes or {}).items()))
    assert not span.status.is_ok


async def test_the_span_of_a_handler_that_raises_says_so(finished: InMemorySpanExporter) -> None:
    nats = MemoryNats()
    gateway = nats.connect("reply.gw-1")

    async def fail(_: Message) -> None:
        raise ValueError("no such route")

    await gateway.subscribe("feed.pool.blue", fail, queue="workers")
    await nats.connect("registry").publish("feed.pool.blue", b"x")
    await nats.idle()

    span = by_name(finished)["process feed.pool.*"]
    assert not span.status.is_ok
    assert (span.attributes or {})["messaging.consumer.group.name"] == "workers"


@pytest.fixture
def of_changes(monkeypatch: pytest.MonkeyPatch) -> TracerProvider:
    """This process records what others have decided to, and changes that begin here."""
    provider = TracerProvider(sampler=sampling.of_changes(), shutdown_on_exit=False)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(spans, "_tracer", provider.get_tracer("test"))
    return provider


@pytest.mark.usefixtures("of_changes")
async def test_below_what_is_not_recorded_no_span_is_made_and_the_trace_goes_on() -> None:
    nats = MemoryNats()
    registry, portal = nats.connect("registry"), nats.connect("portal")
    inside: list[SpanContext] = []

    async def answer(message: Message) -> None:
        inside.append(trace.get_current_span().get_span_context())
        await registry.publish(message.reply, b"answer")

    await registry.subscribe("cp.registry.command", answer)
    with continued(UNRECORDED):
        for _ in range(2):
            await portal.request("cp.registry.command", b"", timeout_s=5)

    assert [message.headers for message in nats.sent_to("cp.registry.command")] == [{"traceparent": UNRECORDED}] * 2
    assert [message.headers for message in nats.sent_to("_INBOX.>")] == [{}, {}]
    assert {trace.format_trace_id(context.trace_id) for context in inside} == {UNRECORDED[3:35]}
    ids = {trace.format_span_id(context.span_id) for context in inside}
    assert len(ids - {UNRECORDED[36:52]}) == 2  # two writes of one request bear different traceparents


@pytest.mark.usefixtures("of_changes")
async def test_what_is_sent_for_an_older_write_bears_its_trace_recorded_or_not() -> None:
    nats = MemoryNats()
    registry = nats.connect("registry")
    for parent in (PARENT, UNRECORDED):
        await registry.publish("feed.pool.blue", b"x", headers={"traceparent": parent})

    recorded, unrecorded = (message.headers["traceparent"] for message in nats.sent_to("feed.>"))
    assert (recorded[:35], recorded[-2:]) == (PARENT[:35], "01")
    assert recorded != PARENT
    assert unrecorded == UNRECORDED


async def test_a_process_that_exports_makes_its_spans_whatever_the_parent_says(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(spans, "_tracer", provider.get_tracer("test"))

    await MemoryNats().connect("registry").publish("feed.pool.blue", b"x", headers={"traceparent": UNRECORDED})

    assert [span.name for span in exporter.get_finished_spans()] == ["publish feed.pool.*"]
