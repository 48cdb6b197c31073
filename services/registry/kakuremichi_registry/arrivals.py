"""Of the nodes' reports what propagation needs, into a stream: each item of a feed once for each node."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

import structlog

from kakuremichi.bus.port import Bus, BusError
from kakuremichi.model.ids import LogId, NodeId
from kakuremichi.wire import subjects
from kakuremichi.wire.arrivals import MOST_ARRIVALS, ArrivalBatch, ItemArrivals, NodeArrival
from kakuremichi.wire.codec import encode
from kakuremichi.wire.records import Head
from kakuremichi.wire.requests import Report, TimedReport

log = structlog.get_logger(__name__)

MOST_TOLD = 100_000  # readers of feeds: two for each agent


class Heard(NamedTuple):
    report: Report
    at: float  # Unix seconds
    feeds: tuple[str, ...]  # that the node reads


class Row(NamedTuple):
    log_id: LogId
    feed: str
    feed_seq: int
    arrival: NodeArrival


class ArrivalLog:
    """Remembers of each reader how far it was told of, so that a node fills the stream with no more than feeds have."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._told: dict[tuple[NodeId, str], tuple[LogId, int]] = {}

    async def tell(self, heard: Iterable[Heard], heads: Mapping[str, Head]) -> None:
        """Send what is new; what cannot be sent is news again when the node says it again."""
        rows = sorted((row for each in heard for row in self._news(each, heads)), key=lambda row: row[:3])
        try:
            for start in range(0, len(rows), MOST_ARRIVALS):
                part = rows[start : start + MOST_ARRIVALS]
                await self._bus.publish(subjects.ARRIVALS, encode(ArrivalBatch(items=tuple(_items(part)))))
                self._note(part)
        except BusError as error:
            log.info("arrivals not kept", count=len(rows), reason=str(error))

    def _news(self, heard: Heard, heads: Mapping[str, Head]) -> Iterator[Row]:
        """A node's word counts for items that there are, of feeds that it reads."""
        report = heard.report
        logs = {cursor.feed: cursor.log_id for cursor in report.cursors}
        ages: tuple[int | None, ...] = report.ages_us if isinstance(report, TimedReport) else ()
        for number, timing in enumerate(report.timings):
            if timing.feed not in heard.feeds or min(timing.decided_us, timing.applied_us) < 0:
                continue
            head = heads[timing.feed]
            log_id, told = self._told.get((report.node_id, timing.feed), (head.log_id, 0))
            after = told if log_id == head.log_id else 0
            if logs.get(timing.feed) != head.log_id or not after < timing.feed_seq <= head.feed_seq:
                continue
            age_us = ages[number] if number < len(ages) else None
            arrival = NodeArrival(
                report.node_id, int(heard.at * 1e6), timing.decided_us, timing.applied_us,
                None if age_us is None else max(0, age_us),
            )  # fmt: skip
            yield Row(head.log_id, timing.feed, timing.feed_seq, arrival)

    def _note(self, rows: Iterable[Row]) -> None:
        for row in rows:  # in the order of their numbers
            self._told[row.arrival.node_id, row.feed] = row.log_id, row.feed_seq
        while len(self._told) > MOST_TOLD:
            del self._told[next(iter(self._told))]


def _items(rows: Iterable[Row]) -> Iterator[ItemArrivals]:
    for (log_id, feed, feed_seq), of_item in groupby(rows, key=lambda row: row[:3]):
        yield ItemArrivals(log_id, feed, feed_seq, tuple(row.arrival for row in of_item))
