"""Snapshots: the live items of a feed in key order, cut into pages by bytes.

Each feed is held in memory as it was at one feed_seq and brought forward by what was said since, so that a
fleet that comes back at one moment costs the database almost nothing.
"""

import asyncio
from bisect import bisect_right, insort
from dataclasses import dataclass, field

from kakuremichi.model.ids import NodeId, PoolName
from kakuremichi.wire.codec import WireError
from kakuremichi.wire.records import Head
from kakuremichi.wire.requests import SnapshotPage, SnapshotRefused, SnapshotRequest
from kakuremichi.wire.signing import Signed
from kakuremichi.wire.subjects import agent_feed, fleet_feed, node_of, pool_feed
from kakuremichi_registry.database import Database, DatabaseUnavailableError
from kakuremichi_registry.signer import Signer
from kakuremichi_registry.store import feeds
from kakuremichi_registry.store.feeds import LiveItem
from kakuremichi_registry.store.nodes import node_place

SIGNATURE_BYTES = 128  # what Signed adds to a body, and a little more
LEAP = 5000  # further behind than this, a feed is read anew
KEPT_FEEDS = 256


@dataclass
class LiveFeed:
    """The live items of one feed at `feed_seq`; `paths` are the keys of `items` in order."""

    feed_seq: int
    items: dict[str, LiveItem]
    paths: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.paths = sorted(self.items)

    def apply(self, change: feeds.Change) -> None:
        self.feed_seq = change.feed_seq
        if change.gone:
            if self.items.pop(change.path, None) is not None:
                del self.paths[bisect_right(self.paths, change.path) - 1]
        else:
            if change.path not in self.items:
                insort(self.paths, change.path)
            self.items[change.path] = change.item

    def page(self, after: str, limit_bytes: int) -> tuple[list[LiveItem], str]:
        """(items after the path `after`, the next `after`): at most `limit_bytes` with signatures, but never none."""
        begin = bisect_right(self.paths, after) if after else 0
        chosen: list[LiveItem] = []
        size = 0
        for index in range(begin, len(self.paths)):
            item = self.items[self.paths[index]]
            size += len(item.body) + SIGNATURE_BYTES
            if chosen and size > limit_bytes:
                return chosen, self.paths[index - 1]
            chosen.append(item)
        return chosen, ""


def may_read(node: NodeId, role: str, pool: PoolName, feed: str) -> bool:
    """A gateway reads its pool, an agent its fleet and what is for it alone."""
    if role == "gateway":
        return feed == pool_feed(pool)
    return feed in (fleet_feed(pool), agent_feed(node))


class Snapshots:
    def __init__(self, database: Database, signer: Signer) -> None:
        self._database, self._signer = database, signer
        self._feeds: dict[str, LiveFeed] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def answer(self, subject: str, request: SnapshotRequest) -> SnapshotPage | SnapshotRefused:
        """One page, for the node that the subject names."""
        node = node_of(subject)
        try:
            place = await node_place(self._database, node)
            if place is None:
                return SnapshotRefused(code="unknown-node", detail=f"node {node}: is not enrolled")
            if not may_read(node, place.role, place.pool, request.feed):
                return SnapshotRefused(code="forbidden", detail=f"feed {request.feed}: not for {place.role} {node}")
            return await self._page(request)
        except DatabaseUnavailableError as error:
            return SnapshotRefused(code="unavailable", detail=str(error), retry_after_ms=1000)

    @staticmethod
    def refuse(error: WireError) -> SnapshotRefused:
        return SnapshotRefused(code="malformed", detail=str(error))

    async def _page(self, request: SnapshotRequest) -> SnapshotPage:
        async with self._locks.setdefault(request.feed, asyncio.Lock()):
            head, held = await self._forward(request.feed)
            items, next_after = held.page(request.after, request.limit_bytes)
        return SnapshotPage(
            feed=request.feed,
            feed_key=self._signer.feed_certificate,
            head=self._signer.head(head),
            items=tuple(self._sign(item) for item in items),
            next_after=next_after,
        )

    def _sign(self, item: LiveItem) -> Signed:
        return self._signer.item(item.hash, item.body)

    async def _forward(self, feed: str) -> tuple[Head, LiveFeed]:
        """The feed as it stands now, with the head of that moment."""
        head = (await feeds.heads(self._database, [feed]))[feed]
        held = self._feeds.get(feed)
        if held is not None and 0 <= head.feed_seq - held.feed_seq <= LEAP:
            changes = []
            if held.feed_seq < head.feed_seq:
                changes = await feeds.since(self._database, feed, held.feed_seq, head.feed_seq)
            if len(changes) == head.feed_seq - held.feed_seq:  # else old items were cleared away meanwhile
                for change in changes:
                    held.apply(change)
                return head, held
        return await self._load(feed)

    async def _load(self, feed: str) -> tuple[Head, LiveFeed]:
        head, items = await feeds.live(self._database, feed)
        held = LiveFeed(head.feed_seq, items)
        self._feeds.pop(feed, None)
        self._feeds[feed] = held
        if len(self._feeds) > KEPT_FEEDS:
            del self._feeds[next(iter(self._feeds))]
        return head, held
