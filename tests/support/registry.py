"""A registry in memory, for tests: answers snapshots and reports on a bus, publishes what its feeds write."""

import asyncio
from dataclasses import dataclass, field

from kakuremichi.bus.memory import MemoryBus
from kakuremichi.bus.port import Message
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import decode, decode_any, encode
from kakuremichi.wire.records import AnyRecord
from kakuremichi.wire.requests import AnyReport, Report, ReportAnswer, SnapshotRequest
from kakuremichi.wire.signing import Signed
from support.feedmaker import FeedMaker


@dataclass
class MemoryRegistry:
    bus: MemoryBus
    feeds: dict[str, FeedMaker] = field(default_factory=dict)
    reports: list[Report] = field(default_factory=list)
    page_size: int = 2
    _heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        await self.bus.subscribe(subjects.SNAPSHOT, self._snapshot)
        await self.bus.subscribe(subjects.REPORT, self._report)

    def feed(self, name: str) -> FeedMaker:
        return self.feeds.setdefault(name, FeedMaker(feed=name))

    async def write(self, feed: str, record: AnyRecord) -> Signed:
        signed = self.feed(feed).write(record)
        await self.bus.publish(feed, encode(signed))
        return signed

    async def beacon(self, feed: str) -> None:
        await self.bus.publish(subjects.beacon(feed), encode(self.feed(feed).head()))

    async def _snapshot(self, message: Message) -> None:
        asked = decode(message.data, SnapshotRequest)
        await self.bus.publish(message.reply, encode(self.feed(asked.feed).page(asked.after, self.page_size)))

    async def _report(self, message: Message) -> None:
        report: Report = decode_any(message.data, AnyReport, name="report")
        self.reports.append(report)
        self._heard.set()
        heads = tuple(self.feed(cursor.feed).head() for cursor in report.cursors)
        await self.bus.publish(message.reply, encode(ReportAnswer(heads=heads)))

    async def reported(self, feed: str, seq: int, *, clean: bool = True) -> None:
        """Return once a report says that `feed` is applied up to `seq` (and, if `clean`, that nothing is wrong)."""
        async with asyncio.timeout(5):
            while not (self.reports and self._says(self.reports[-1], feed, seq, clean=clean)):
                self._heard.clear()
                await self._heard.wait()

    def _says(self, report: Report, feed: str, seq: int, *, clean: bool) -> bool:
        reached = any(cursor.feed == feed and cursor.feed_seq >= seq for cursor in report.cursors)
        return reached and not (clean and report.errors)
