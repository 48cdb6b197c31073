"""What the registry puts into the stream of arrivals: every item once for each of its readers, and nothing else."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from kakuremichi.bus.memory import MemoryBus, MemoryNats
from kakuremichi.model.ids import LogId, NodeId
from kakuremichi.wire.arrivals import MOST_ARRIVALS, ArrivalBatch, NodeArrival
from kakuremichi.wire.codec import decode
from kakuremichi.wire.identity import NO_HASH
from kakuremichi.wire.records import Head
from kakuremichi.wire.requests import Cursor, Report, TimedReport, Timing
from kakuremichi_registry.arrivals import ArrivalLog, Heard

FEED = "feed.pool.main"


def heads(feed_seq: int = 9, log_id: str = "log-1", feeds: Iterable[str] = (FEED,)) -> Mapping[str, Head]:
    return {
        feed: Head(log_id=LogId(log_id), feed=feed, feed_seq=feed_seq, hash=NO_HASH, count=0, sum=NO_HASH, at_ms=0)
        for feed in feeds
    }


def heard(node: str, *seqs: int, feed: str = FEED, log_id: str = "log-1", timed: bool = True, at: float = 5.0) -> Heard:
    said: dict[str, Any] = {
        "node_id": NodeId(node), "boot_id": bytes(16), "version": "0.2.0", "tags": ("route.v1",),
        "cursors": (Cursor(feed, LogId(log_id), max(seqs, default=0)),),
        "timings": tuple(Timing(feed, seq, 100, 200) for seq in seqs),
    }  # fmt: skip
    report = TimedReport(**said, ages_us=tuple(300 for _ in seqs)) if timed else Report(**said)
    return Heard(report, at, (FEED,))


@pytest.fixture
def nats() -> MemoryNats:
    return MemoryNats()


@pytest.fixture
def bus(nats: MemoryNats) -> MemoryBus:
    return nats.connect("registry")


def told(nats: MemoryNats) -> list[tuple[str, int, str]]:
    """(log, number, node) as they stand in the stream."""
    batches = [decode(message.data, ArrivalBatch) for message in nats.streams["ARRIVALS"].stored.values()]
    return [
        (item.log_id, item.feed_seq, each.node_id) for batch in batches for item in batch.items for each in item.nodes
    ]


async def test_those_who_tell_of_an_item_at_once_share_one_message(nats: MemoryNats, bus: MemoryBus) -> None:
    await ArrivalLog(bus).tell([heard("gw2", 7), heard("gw1", 7, at=5.5), heard("gw3", 7, timed=False)], heads())
    (message,) = nats.streams["ARRIVALS"].stored.values()
    (item,) = decode(message.data, ArrivalBatch).items
    assert (item.log_id, item.feed, item.feed_seq) == ("log-1", FEED, 7)
    assert {each.node_id: each for each in item.nodes} == {
        "gw1": NodeArrival(NodeId("gw1"), 5_500_000, 100, 200, 300),
        "gw2": NodeArrival(NodeId("gw2"), 5_000_000, 100, 200, 300),
        "gw3": NodeArrival(NodeId("gw3"), 5_000_000, 100, 200, None),
    }


async def test_a_heartbeat_costs_nothing_and_what_is_said_again_is_no_news(nats: MemoryNats, bus: MemoryBus) -> None:
    arrivals = ArrivalLog(bus)
    for _ in range(5):
        await arrivals.tell([heard("gw1")], heads())
    assert nats.sent == []
    await arrivals.tell([heard("gw1", 7)], heads())
    await arrivals.tell([heard("gw1", 7, 8)], heads())
    await arrivals.tell([heard("gw1", 7, 8)], heads())
    assert told(nats) == [("log-1", 7, "gw1"), ("log-1", 8, "gw1")]


@pytest.mark.parametrize(
    "invented",
    [
        heard("gw1", 10),  # there is no such item yet
        heard("gw1", 0),
        heard("gw1", -5),
        heard("gw1", 7, feed="feed.pool.other"),  # which it does not read
        heard("gw1", 7, log_id="log-0"),
        Heard(TimedReport(node_id=NodeId("gw1"), boot_id=b"", version="", tags=(), cursors=(),
                          timings=(Timing(FEED, 7, 1, 2),), ages_us=(3,)), 5.0, (FEED,)),
        Heard(TimedReport(node_id=NodeId("gw1"), boot_id=b"", version="", tags=(),
                          cursors=(Cursor(FEED, LogId("log-1"), 7),), timings=(Timing(FEED, 7, -1, 2),)), 5.0, (FEED,)),
    ],
)  # fmt: skip
async def test_a_node_cannot_fill_the_stream_with_what_it_invents(
    nats: MemoryNats, bus: MemoryBus, invented: Heard
) -> None:
    await ArrivalLog(bus).tell([invented], heads())
    assert nats.sent == []


async def test_another_log_counts_anew(nats: MemoryNats, bus: MemoryBus) -> None:
    arrivals = ArrivalLog(bus)
    await arrivals.tell([heard("gw1", 9)], heads())
    await arrivals.tell([heard("gw1", 2, log_id="log-2")], heads(3, "log-2"))
    assert told(nats) == [("log-1", 9, "gw1"), ("log-2", 2, "gw1")]


async def test_what_could_not_be_sent_is_news_again(nats: MemoryNats, bus: MemoryBus) -> None:
    arrivals = ArrivalLog(bus)
    bus.disconnect()
    await arrivals.tell([heard("gw1", 7)], heads())
    bus.reconnect()
    await arrivals.tell([heard("gw1", 7)], heads())
    assert told(nats) == [("log-1", 7, "gw1")]


async def test_a_crowd_with_the_longest_names_fits_into_messages(nats: MemoryNats, bus: MemoryBus) -> None:
    feed, seqs = "feed.pool." + "p" * 31, range(2**40, 2**40 + 32)
    crowd = [
        heard(f"{number:04}" + "n" * 27, *seqs, feed=feed, log_id="l" * 36)._replace(feeds=(feed,))
        for number in range(30)
    ]
    await ArrivalLog(bus).tell(crowd, heads(2**41, "l" * 36, [feed]))
    assert len(told(nats)) == 30 * 32 > MOST_ARRIVALS
    assert len(nats.sent) == 3
