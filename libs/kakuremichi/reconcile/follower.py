"""Follow one feed: subscribe, take a snapshot, apply what comes, notice what does not.

One task reads one bounded queue, so an item, a head and a snapshot are never handled at the same time;
what arrives while a snapshot is asked for waits in the queue and is judged after it.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from kakuremichi.bus.port import Bus, BusError, Message
from kakuremichi.model.ids import NodeId
from kakuremichi.reconcile.follow import HeadVerdict, Verdict, judge_head, judge_item
from kakuremichi.reconcile.holding import NOTHING, Change, Holding
from kakuremichi.reconcile.journal import COMPACT_AFTER, Base, Journal
from kakuremichi.reconcile.verify import NotTrustedError, OpenedItem, Verifier
from kakuremichi.wire import requests, subjects
from kakuremichi.wire.codec import WireError, decode, decode_any, encode
from kakuremichi.wire.records import Head
from kakuremichi.wire.signing import Signed

log = structlog.get_logger()

QUEUE_ITEMS = 4096
BEHIND_S = 3.0  # a head ahead of us for longer means that items were lost
SNAPSHOT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Applied:
    """A step of the feed that the reconcilers now have to make true."""

    feed: str
    feed_seq: int
    change: Change
    received_ns: int  # time.monotonic_ns
    traceparent: str
    whole: bool  # a snapshot: compare everything


@dataclass
class Counters:
    noise: int = 0
    gaps: int = 0
    snapshots: int = 0
    rollbacks: int = 0


@dataclass
class Follower:
    bus: Bus
    node: NodeId
    holding: Holding
    verifier: Verifier
    journal: Journal
    emit: Callable[[Applied], None]
    alarms: set[str] = field(default_factory=set)
    counters: Counters = field(default_factory=Counters)
    _queue: "asyncio.Queue[Message]" = field(default_factory=lambda: asyncio.Queue(QUEUE_ITEMS))
    _resync: asyncio.Event = field(default_factory=asyncio.Event)
    _feed_key: Signed | None = None
    _head: Signed | None = None
    _failures: int = 0

    @property
    def feed(self) -> str:
        return self.holding.feed

    def load(self) -> bool:
        """Bring back the last-known-good, every signature verified again. True if there was any."""
        for base, tail in self.journal.read():
            try:
                self.verifier.learn_feed_key(base.feed_key, new=False)
                head = self.verifier.head(base.head)
                self.holding.replace(head, [self.verifier.signed_item(signed) for signed in base.items], time.time())
            except (NotTrustedError, WireError) as error:
                log.warning("last-known-good refused", feed=self.feed, reason=str(error))
                continue
            self._feed_key, self._head = base.feed_key, base.head
            self._load_tail(tail)
            return True
        return False

    def _load_tail(self, tail: tuple[Signed, ...]) -> None:
        for signed in tail:
            try:
                opened = self.verifier.signed_item(signed)
            except (NotTrustedError, WireError):
                return
            if self.holding.cursor is not None and judge_item(self.holding.cursor, opened.item) is Verdict.APPLY:
                self.holding.apply(opened)

    async def run(self, stop: asyncio.Event) -> None:
        self.bus.on_connected(lambda _generation: self.resync())
        self.bus.on_overflow(lambda _subject: self.resync())
        await self.bus.subscribe(self.feed, self._enqueue)
        if not self.feed.startswith("feed.agent."):
            await self.bus.subscribe(subjects.beacon(self.feed), self._enqueue)
        if self.bus.generation:  # else the first connection asks
            self.resync()
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                if self._resync.is_set() and await self._take_snapshot(stop):
                    continue
                await self._one(stopped)
        finally:
            stopped.cancel()
            self._compact()
            self.journal.close()

    def resync(self) -> None:
        """Ask for a snapshot at the next turn."""
        self._resync.set()

    async def _enqueue(self, message: Message) -> None:
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self.resync()  # what was lost here is a gap like any other

    async def _one(self, stopped: "asyncio.Task[bool]") -> None:
        next_message = asyncio.create_task(self._queue.get())
        wake = asyncio.create_task(self._resync.wait())
        try:
            await asyncio.wait({next_message, wake, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if next_message.done():
                self._take(next_message.result())
                self._drain()
        finally:
            next_message.cancel()
            wake.cancel()

    def _drain(self) -> None:
        while not self._resync.is_set() and not self._queue.empty():
            self._take(self._queue.get_nowait())

    def _take(self, message: Message) -> None:
        received_ns = time.monotonic_ns()
        try:
            if message.subject == self.feed:
                self._take_item(self.verifier.item(message.data), received_ns, message.headers.get("traceparent", ""))
            else:
                signed = decode(message.data, Signed, name="head")
                self.take_head(self.verifier.head(signed), signed)
        except (NotTrustedError, WireError) as error:
            # Anybody may put bytes on a wire. Noise is counted; it is never a gap and never a reason to resync.
            self.counters.noise += 1
            log.warning("message refused", subject=message.subject, reason=str(error))

    def _take_item(self, opened: OpenedItem, received_ns: int, traceparent: str) -> None:
        item, cursor = opened.item, self.holding.cursor
        if item.feed != self.feed:
            raise NotTrustedError(f"feed item: of {item.feed}, came on {self.feed}")
        if cursor is None:
            return
        match judge_item(cursor, item):
            case Verdict.APPLY:
                change = self.holding.apply(opened)
                self.journal.append(opened.signed)
                self.emit(Applied(self.feed, item.feed_seq, change, received_ns, traceparent, whole=False))
                if self.journal.length >= COMPACT_AFTER:
                    self.resync()  # compaction needs a signed head, and a snapshot brings one
            case Verdict.RESYNC:
                self.counters.gaps += 1
                log.info("feed has a gap", feed=self.feed, held=cursor.feed_seq, came=item.feed_seq)
                self.resync()
            case Verdict.NEW_LOG:
                self._alarm("new-log")
            case Verdict.DROP:
                pass

    def take_head(self, head: Head, signed: Signed) -> None:
        """A beacon, or a head in the answer to a report."""
        cursor = self.holding.cursor
        if head.feed != self.feed or cursor is None:
            return
        now = time.monotonic()
        verdict = judge_head(cursor, self.holding.total, head)
        match verdict:
            case HeadVerdict.CURRENT:
                self._head = signed
                self.alarms.difference_update({"different", "rollback"})
                self._emit_if(self.holding.confirm(now))
            case HeadVerdict.BEHIND:
                asyncio.get_running_loop().call_later(BEHIND_S, self._resync_if_behind, head.feed_seq)
            case HeadVerdict.DIFFERENT if self.holding.comparable():
                self._alarm("different")
                self.resync()
            case HeadVerdict.ROLLBACK:
                self.counters.rollbacks += 1  # one late beacon is a race; a snapshot that says less is the alarm
            case HeadVerdict.NEW_LOG:
                self._alarm("new-log")

    def _resync_if_behind(self, feed_seq: int) -> None:
        if self.holding.cursor is not None and self.holding.cursor.feed_seq < feed_seq:
            self.resync()

    def _emit_if(self, change: Change) -> None:
        cursor = self.holding.cursor
        if change.keys and cursor is not None:
            self.emit(Applied(self.feed, cursor.feed_seq, change, time.monotonic_ns(), "", whole=False))

    def _alarm(self, what: str) -> None:
        if what not in self.alarms:
            log.error("feed alarm", feed=self.feed, alarm=what)
        self.alarms.add(what)

    async def _take_snapshot(self, stop: asyncio.Event) -> bool:
        """Ask for the pages and take them. True if the loop should look again at once."""
        self._resync.clear()
        try:
            self._merge(*await self._pages())  # a record that cannot be read makes the whole snapshot worth nothing
        except (BusError, NotTrustedError, WireError) as error:
            self._failures += 1
            log.info("snapshot not taken", feed=self.feed, reason=str(error), failures=self._failures)
            self._retry_later(stop)
            return False
        self._failures = 0
        self.counters.snapshots += 1
        return True

    def _retry_later(self, stop: asyncio.Event) -> None:
        pause = random.uniform(0.1, min(30.0, 0.5 * 2 ** min(self._failures, 6)))
        asyncio.get_running_loop().call_later(pause, lambda: None if stop.is_set() else self.resync())

    def _merge(self, head: Head, signed: Signed, items: list[OpenedItem]) -> None:
        cursor = self.holding.cursor
        if cursor is not None and head.log_id != cursor.log_id:
            self._alarm("new-log")
            return
        if cursor is not None and head.feed_seq < cursor.feed_seq:
            self._alarm("rollback")
            return
        change = self.holding.replace(head, items, time.monotonic())
        self._head = signed
        self._compact()
        self.emit(Applied(self.feed, head.feed_seq, change, time.monotonic_ns(), "", whole=cursor is None))

    async def _pages(self) -> tuple[Head, Signed, list[OpenedItem]]:
        first = await self._page("")
        head = self.verifier.head(first.head)
        if head.feed != self.feed:
            raise NotTrustedError(f"snapshot: its head is of {head.feed}, {self.feed} was asked for")
        items = [self._open(signed) for signed in first.items]
        after = first.next_after
        while after:
            page = await self._page(after)
            items.extend(self._open(signed) for signed in page.items)
            if page.next_after and page.next_after <= after:
                raise NotTrustedError("snapshot: its pages do not go forward")  # else they would never end
            after = page.next_after
            await asyncio.sleep(0)  # thousands of signatures: let beacons and reports through
        return head, first.head, items

    def _open(self, signed: Signed) -> OpenedItem:
        opened = self.verifier.signed_item(signed)
        if opened.item.feed != self.feed:
            raise NotTrustedError(f"snapshot: holds an item of {opened.item.feed}")
        return opened

    async def _page(self, after: str) -> requests.SnapshotPage:
        ask = encode(requests.SnapshotRequest(feed=self.feed, after=after))
        answer = await self.bus.request(subjects.snapshot(self.node), ask, timeout_s=SNAPSHOT_TIMEOUT_S)
        page: requests.SnapshotPage | requests.SnapshotRefused = decode_any(
            answer.data, requests.SnapshotPage | requests.SnapshotRefused, name="snapshot page"
        )
        if isinstance(page, requests.SnapshotRefused):
            raise NotTrustedError(f"snapshot: {page.detail}")
        self.verifier.learn_feed_key(page.feed_key)
        self._feed_key = page.feed_key
        return page

    def _compact(self) -> None:
        """Write the base anew, if the signed head at hand is that of the cursor."""
        cursor = self.holding.cursor
        if self._head is None or self._feed_key is None or cursor is None or self.holding.withheld:
            return  # while a mass removal is held back, the base before it is the last one known to be good
        head = self.verifier.head(self._head)
        if head.feed_seq == cursor.feed_seq and head.log_id == cursor.log_id:
            self.journal.rewrite(Base(self._head, self._feed_key, tuple(h.signed for h in self.holding.live.values())))


__all__ = ["NOTHING", "Applied", "Follower"]
