"""Spans that come over the bus: whose they are is told by the subject, and how many are kept has an end."""

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, Status, StatusCode

from kakuremichi.bus.memory import MemoryNats
from kakuremichi.bus.port import Message
from kakuremichi.bus.span_mail import SpanMail
from kakuremichi.runtime.sampling import of_changes
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import encode
from kakuremichi.wire.spans import SpanBatch, SpanRecord
from kakuremichi_portal.traces import MOST_OF_ONE_PROCESS, Traces
from unit.portal.world import World

ROOT = "trace.service.portal"


def span(number: int, of: int = 1, name: str = "apply", kind: Any = "internal") -> SpanRecord:
    start_ns = 1_000_000 * number
    return SpanRecord(name, of.to_bytes(16, "big"), number.to_bytes(8, "big"), b"", start_ns, 2 * start_ns, kind)


async def hear(traces: Traces, subject: str, *spans: SpanRecord) -> None:
    traces.take(Message(subject, encode(SpanBatch(spans=spans))))


async def test_a_trace_is_put_together_from_all_who_took_part(world: World) -> None:
    await hear(world.portal.traces, "trace.node.gw1", span(2))
    await hear(world.portal.traces, ROOT, span(1, name="PUT /api/v1/services/{name}", kind="server"))
    async with world.client.get(f"/api/v1/traces/{1:032x}", headers=world.auth) as response:
        answer = await response.json()
    assert [(each["process"], each["name"], each["offset_ms"]) for each in answer["spans"]] == [
        ("portal", "PUT /api/v1/services/{name}", 0.0), ("gw1", "apply", 1.0),
    ]  # fmt: skip
    assert answer["truncated"] is False


@pytest.mark.parametrize("name", ["0" * 32, "x", "0" * 31, "g" * 32, "0" * 33])
async def test_an_unknown_trace_is_not_found(world: World, name: str) -> None:
    async with world.client.get(f"/api/v1/traces/{name}", headers=world.auth) as response:
        assert response.status == 404


async def test_what_a_write_began_outlives_everything_else() -> None:
    traces = Traces(most_writes=2, most_others=2)
    await hear(traces, ROOT, span(1, of=1, name="POST /api/v1/services", kind="server"))
    for number in range(2, 20):
        await hear(traces, "trace.node.gw1", span(1, of=number))
    assert traces.find((1).to_bytes(16, "big")) is not None
    assert len(traces) == 3
    assert traces.spans == 3


async def test_a_step_that_changes_share_stands_in_each_of_their_traces() -> None:
    traces = Traces()
    place = (2).to_bytes(16, "big") + (77).to_bytes(8, "big")
    shared = SpanRecord("report", (1).to_bytes(16, "big"), b"s" * 8, b"p" * 8, 1, 2, "internal", "", (place,))
    await hear(traces, "trace.node.gw1", shared)
    one, two = traces.find((1).to_bytes(16, "big")), traces.find((2).to_bytes(16, "big"))
    assert one is not None
    assert two is not None
    assert one.spans[b"s" * 8].parent_id == b"p" * 8
    assert two.spans[b"s" * 8].parent_id == (77).to_bytes(8, "big")
    assert traces.spans == 2


async def test_only_the_portal_can_say_that_a_write_began_a_trace() -> None:
    traces = Traces(most_others=1)
    await hear(traces, "trace.node.portal", span(1, of=1, name="POST /api/v1/services", kind="server"))
    await hear(traces, "trace.node.gw1", span(1, of=2))
    assert traces.find((1).to_bytes(16, "big")) is None


async def test_one_node_cannot_fill_a_trace_of_others() -> None:
    traces = Traces()
    for start in range(0, MOST_OF_ONE_PROCESS + 100, 100):
        await hear(traces, "trace.node.evil", *(span(start + number + 1) for number in range(100)))
    await hear(traces, "trace.node.gw1", span(9999))
    kept = traces.find((1).to_bytes(16, "big"))
    assert kept is not None
    assert kept.truncated
    assert kept.by_process == {"evil": MOST_OF_ONE_PROCESS, "gw1": 1}


async def test_the_spans_in_memory_have_an_end_and_nonsense_is_counted() -> None:
    traces = Traces(most_spans=10)
    for number in range(1, 50):
        await hear(traces, "trace.node.gw1", *(span(each + 1, of=number) for each in range(4)))
    assert traces.spans <= 10
    traces.take(Message("trace.node.gw1", b"\xc1"))
    assert traces.refused == 1


async def test_a_process_sends_the_spans_of_changes_and_nothing_of_the_sending() -> None:
    nats = MemoryNats()
    bus, portal, traces = nats.connect("gw1"), nats.connect("portal"), Traces()
    await traces.listen(portal)
    mail = SpanMail(bus, subjects.node_spans("gw1"))  # type: ignore[arg-type]
    provider = TracerProvider(sampler=of_changes(), shutdown_on_exit=False)
    provider.add_span_processor(mail)
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("GET /", kind=SpanKind.SERVER, attributes={"http.request.method": "GET"}):
        tracer.start_span("read").end()
    with tracer.start_as_current_span("PUT /", kind=SpanKind.SERVER, attributes={"http.request.method": "PUT"}) as root:
        tracer.start_span("publish trace.*.*").end()
        with tracer.start_as_current_span("apply") as applying:
            applying.set_status(Status(StatusCode.ERROR, "no route"))
    await mail.flush()
    await nats.idle()
    kept = traces.find(root.get_span_context().trace_id.to_bytes(16, "big"))
    assert kept is not None
    assert sorted((each.process, each.record.name, each.record.error) for each in kept.spans.values()) == [
        ("gw1", "PUT /", ""), ("gw1", "apply", "no route"),
    ]  # fmt: skip
    assert len(traces) == 1
    assert (mail.sent, mail.dropped) == (2, 0)
    await bus.close()
    with tracer.start_as_current_span("again", context=trace.set_span_in_context(root)):
        pass
    await mail.flush()
    assert mail.dropped == 1


async def test_the_largest_spans_fit_into_messages() -> None:
    nats = MemoryNats()
    bus, sizes = nats.connect("gw1"), list[int]()

    async def measure(message: Message) -> None:
        sizes.append(len(message.data))

    await nats.connect("portal").subscribe(subjects.TRACE, measure)
    mail = SpanMail(bus, subjects.node_spans("gw1"))  # type: ignore[arg-type]
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(mail)
    tracer = provider.get_tracer("test")
    other = trace.SpanContext(1, 1, is_remote=True)
    for _ in range(300):
        links = [trace.Link(other)] * 40
        with tracer.start_as_current_span("n" * 300, links=links) as large:
            large.set_status(Status(StatusCode.ERROR, "\N{SNOWMAN}" * 900))
    await mail.flush()
    await nats.idle()
    assert mail.sent == 300
    assert max(sizes) < 65536
