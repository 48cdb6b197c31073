"""Feeds and the log as the relay and the snapshots read them."""

import time
from collections.abc import Iterable
from typing import NamedTuple

import asyncpg

from kakuremichi.model.ids import LogId
from kakuremichi.wire.identity import NO_HASH
from kakuremichi.wire.records import Head
from kakuremichi_registry.database import Database

HEADS = """
select l.log_id, w.feed, coalesce(h.feed_seq, 0) as feed_seq, h.hash, coalesce(h.count, 0) as count,
       coalesce(h.sum, 0)::text as sum
from log_head l, unnest($1::text[]) w(feed) left join feed_head h on h.feed = w.feed
"""
SHARED_FEEDS = (
    "select 'feed.' || scope || '.' || pool as feed from pool, unnest(array['pool', 'fleet']) scope order by 1"
)
LIVE = """
select (select log_id from log_head) as log_id, h.feed, h.feed_seq, h.hash, h.count, h.sum::text as sum,
       l.path, l.hash as item_hash, l.body
from feed_head h left join feed_live l using (feed) where h.feed = $1
"""
SINCE = """
select feed_seq, path, gone, hash, body from feed_item
where feed = $1 and feed_seq > $2 and feed_seq <= $3 order by feed_seq
"""


class LiveItem(NamedTuple):
    hash: bytes
    body: bytes


class Change(NamedTuple):
    feed_seq: int
    path: str
    gone: bool
    item: LiveItem


async def heads(database: Database, feeds: Iterable[str]) -> dict[str, Head]:
    """The heads of these feeds at one moment; a feed that nothing was said in stands at 0."""
    rows = await database.fetch(HEADS, sorted(set(feeds)))
    return {row["feed"]: head_of(row) for row in rows}


def head_of(row: asyncpg.Record) -> Head:
    return Head(
        log_id=LogId(row["log_id"]),
        feed=row["feed"],
        feed_seq=row["feed_seq"],
        hash=row["hash"] if row["hash"] is not None else NO_HASH,
        count=row["count"],
        sum=int(row["sum"]).to_bytes(32, "big"),
        at_ms=time.time_ns() // 1_000_000,
    )


async def shared_feeds(database: Database) -> list[str]:
    """The feeds of all pools that have a beacon."""
    return [row["feed"] for row in await database.fetch(SHARED_FEEDS)]


async def live(database: Database, feed: str) -> tuple[Head, dict[str, LiveItem]]:
    """The head of a feed and its live items by path, of one moment: one statement sees one state."""
    rows = await database.fetch(LIVE, feed)
    if not rows:
        return (await heads(database, [feed]))[feed], {}
    items = {row["path"]: LiveItem(row["item_hash"], row["body"]) for row in rows if row["path"] is not None}
    return head_of(rows[0]), items


async def since(database: Database, feed: str, after: int, until: int) -> list[Change]:
    """What was said in the feed after `after` up to and with `until`, in order."""
    rows = await database.fetch(SINCE, feed, after, until)
    return [Change(r["feed_seq"], r["path"], r["gone"], LiveItem(r["hash"], r["body"])) for r in rows]
