"""What a portal knows after its restart: as before, out of streams, whatever has become of these."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from kakuremichi.bus.memory import MemoryBus, MemoryNats
from kakuremichi.model.ids import LogId, NodeId
from kakuremichi.wire import subjects
from kakuremichi.wire.arrivals import ArrivalBatch, ItemArrivals, NodeArrival
from kakuremichi.wire.codec import encode
from kakuremichi.wire.requests import Cursor, TimedReport, Timing
from kakuremichi.wire.spans import SpanBatch, SpanRecord
from kakuremichi_portal.past import Past
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.reports import Reports
from kakuremichi_portal.traces import Traces

FEED = "feed.pool.default"
GATEWAY, PORTAL = "trace.node.gw1", "trace.service.portal"


class Memory:
    """What a portal keeps, and how it comes by it."""

    def __init__(self, nats: MemoryNats, settle_s: float = 0.01, **limits: int) -> None:
        self.bus: MemoryBus = nats.connect("portal")
        self.reports, self.traces = Reports(self.bus, Registry(self.bus)), Traces(**limits)
        takers = {"TRACES": self.traces.take, "NODE_TRACES": self.traces.join, "ARRIVALS": self.reports.learn}
        self.past = Past(self.bus, takers, settle_s=settle_s)

    def steps(self, number: int) -> set[str]:
        kept = self.traces.find(number.to_bytes(16, "big"))
        return {f"{each.process}: {each.record.name}" for each in kept.spans.values()} if kept else set()

    def applied_at(self, seq: int, node: str = "gw1") -> float | None:
        arrival = self.reports.arrivals.of(("log-1", FEED, seq), node)
        return arrival.applied_at if arrival else None


@asynccontextmanager
async def portal(nats: MemoryNats, **limits: int) -> AsyncIterator[Memory]:
    memory, stop = Memory(nats, **limits), asyncio.Event()
    await memory.traces.listen(memory.bus, after=memory.past.tried)
    await memory.reports.listen()
    running = asyncio.create_task(memory.past.run(stop))
    try:
        yield memory
    finally:
        stop.set()
        await running
        await memory.bus.close()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  # the state of many parts has no event
            await asyncio.sleep(0.005)


async def send_spans(bus: MemoryBus, subject: str, *spans: SpanRecord) -> None:
    await bus.publish(subject, encode(SpanBatch(spans=spans)))


def root(number: int) -> SpanRecord:
    return SpanRecord("PUT /", number.to_bytes(16, "big"), b"r" * 8, b"", 1, 2, "server")


def step(number: int, name: str = "apply", span_id: bytes = b"a" * 8) -> SpanRecord:
    return SpanRecord(name, number.to_bytes(16, "big"), span_id, b"r" * 8, 1, 2)


def batch(seq: int, node: str = "gw1") -> ArrivalBatch:
    """Heard at 1 s, applied 1 ms before."""
    arrived = NodeArrival(NodeId(node), 1_000_000, 1000, 2000, 3000)
    return ArrivalBatch(items=(ItemArrivals(LogId("log-1"), FEED, seq, (arrived,)),))


def arrivals(seq: int) -> bytes:
    return encode(batch(seq))


def report(seq: int, node: str = "gw1") -> bytes:
    return encode(
        TimedReport(
            node_id=NodeId(node), boot_id=bytes(16), version="0.2.0", tags=(), ages_us=(3000,),
            cursors=(Cursor(FEED, LogId("log-1"), seq),), timings=(Timing(FEED, seq, 1000, 2000),),
        )
    )  # fmt: skip


@pytest.fixture
def nats() -> MemoryNats:
    return MemoryNats()


@pytest.fixture
def others(nats: MemoryNats) -> MemoryBus:
    """Everybody else."""
    return nats.connect("registry")


async def test_a_portal_that_starts_knows_what_went_by_and_goes_on_live(nats: MemoryNats, others: MemoryBus) -> None:
    await send_spans(others, GATEWAY, step(1))
    await send_spans(others, PORTAL, root(1))
    await others.publish(subjects.ARRIVALS, arrivals(7))
    async with portal(nats) as memory:
        await until(lambda: memory.applied_at(7))
        assert memory.steps(1) == {"portal: PUT /", "gw1: apply"}
        assert memory.applied_at(7) == pytest.approx(0.999)
        await send_spans(others, GATEWAY, step(1, "report", b"b" * 8))
        await others.publish(subjects.report(NodeId("gw1")), report(8))
        await until(lambda: "gw1: report" in memory.steps(1) and memory.applied_at(8))


async def test_two_portals_and_one_that_comes_later_say_the_same(nats: MemoryNats, others: MemoryBus) -> None:
    async with portal(nats) as one:
        await until(one.past.tried.is_set)
        await send_spans(others, PORTAL, root(1))
        await send_spans(others, GATEWAY, step(1))
        await others.publish(subjects.ARRIVALS, arrivals(7))
        async with portal(nats) as other:
            await until(lambda: other.applied_at(7))
            await until(lambda: len(one.steps(1)) == 2)
            assert other.steps(1) == one.steps(1)


async def test_what_was_heard_live_is_not_replaced_by_what_the_registry_heard(
    nats: MemoryNats, others: MemoryBus
) -> None:
    async with portal(nats) as memory:
        await others.publish(subjects.report(NodeId("gw1")), report(7))
        await until(lambda: memory.applied_at(7))
        said = memory.applied_at(7)
        memory.reports.arrivals.learn(batch(7))
        memory.reports.arrivals.learn(batch(7, "gw2"))
        assert memory.applied_at(7) == said
        assert memory.applied_at(7, "gw2") == pytest.approx(0.999)
        assert {node for node, _ in memory.reports.arrivals.at(("log-1", FEED, 7))} == {"gw1", "gw2"}


async def test_spans_that_come_while_the_past_is_read_are_newer_than_it(nats: MemoryNats, others: MemoryBus) -> None:
    """The oldest trace is forgotten first: one that is heard at once must not stand before those of yesterday."""
    for number in range(1, 6):
        await send_spans(others, PORTAL, root(number))
    memory, stop = Memory(nats, most_writes=3), asyncio.Event()
    await memory.traces.listen(memory.bus, after=memory.past.tried)
    await send_spans(others, PORTAL, root(6))
    await asyncio.sleep(0)
    assert not memory.traces.find((6).to_bytes(16, "big"))
    running = asyncio.create_task(memory.past.run(stop))
    await until(lambda: memory.steps(6))
    assert [number for number in range(1, 7) if memory.steps(number)] == [4, 5, 6]
    stop.set()
    await running
    await memory.bus.close()


async def test_of_the_past_nodes_only_add_to_traces_that_services_know(nats: MemoryNats, others: MemoryBus) -> None:
    for number in range(100, 400):  # what one node invents pushes nothing out
        await send_spans(others, GATEWAY, step(number))
    await send_spans(others, "trace.service.keyring", step(1, "process"))
    await send_spans(others, "trace.node.site-a", step(1, "announce", b"b" * 8))
    async with portal(nats) as memory:
        await until(lambda: len(memory.steps(1)) == 2)
        assert len(memory.traces) == 1


async def test_streams_that_are_not_there_are_read_once_they_are_and_hold_up_nothing(
    nats: MemoryNats, others: MemoryBus
) -> None:
    await others.publish(subjects.ARRIVALS, arrivals(7))
    kept = nats.streams.pop("TRACES")
    async with portal(nats) as memory:
        await send_spans(others, GATEWAY, step(2))
        await until(lambda: memory.steps(2))
        assert memory.applied_at(7) is None
        nats.streams["TRACES"] = kept
        await until(lambda: memory.applied_at(7))


async def test_what_went_by_during_a_lost_connection_is_read_afterwards(nats: MemoryNats, others: MemoryBus) -> None:
    async with portal(nats) as memory:
        await until(memory.past.tried.is_set)
        memory.bus.disconnect()
        await send_spans(others, PORTAL, root(1))
        await others.publish(subjects.ARRIVALS, arrivals(7))
        memory.bus.reconnect()
        await until(lambda: memory.steps(1) and memory.applied_at(7))


async def test_what_was_on_its_way_into_a_stream_is_found_by_a_second_look(nats: MemoryNats, others: MemoryBus) -> None:
    memory, stop = Memory(nats, settle_s=0.3), asyncio.Event()
    memory.bus.disconnect()
    running = asyncio.create_task(memory.past.run(stop))
    await asyncio.sleep(0)
    memory.bus.reconnect()  # as at a start: the connection comes while it is waited for
    await until(memory.past.tried.is_set)
    await others.publish(subjects.ARRIVALS, arrivals(7))  # which no portal hears live
    await until(lambda: memory.applied_at(7))
    stop.set()
    await running
    await memory.bus.close()


async def test_a_purged_or_restored_stream_and_nonsense_in_it_end_nothing(nats: MemoryNats, others: MemoryBus) -> None:
    for subject in (PORTAL, GATEWAY, subjects.ARRIVALS):
        for nonsense in (b"", b"\xc1", encode(("spans.v1", 1)), encode(("arrivals.v1", ((1, 2),)))):
            await others.publish(subject, nonsense)
    await others.publish(subjects.ARRIVALS, arrivals(7))
    async with portal(nats) as memory:
        await until(lambda: memory.applied_at(7))
        assert (memory.traces.refused, memory.reports.refused) == (8, 4)
        for stream in nats.streams.values():
            stream.stored.clear()
        memory.bus.reconnect()
        await until(lambda: memory.bus.idle)
        nats.recreate("ARRIVALS")
        await others.publish(subjects.ARRIVALS, arrivals(3))
        memory.bus.reconnect()
        await until(lambda: memory.applied_at(3))
        assert memory.applied_at(7)


async def test_what_others_heard_is_forgotten_before_what_this_portal_heard(
    nats: MemoryNats, others: MemoryBus
) -> None:
    async with portal(nats) as memory:
        kept = memory.reports.arrivals
        kept._most = 3
        await others.publish(subjects.report(NodeId("gw1")), report(50))
        await until(lambda: memory.applied_at(50))
        for seq in range(40, 50):
            kept.learn(batch(seq))
        assert [seq for seq in range(40, 51) if memory.applied_at(seq)] == [48, 49, 50]
        assert len(kept) == 3
