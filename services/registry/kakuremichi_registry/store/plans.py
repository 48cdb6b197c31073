"""The records that stand now, for a dry run to compare with."""

from collections.abc import Iterable

from kakuremichi.wire.codec import decode
from kakuremichi.wire.records import FeedItem
from kakuremichi_registry.database import Database
from kakuremichi_registry.items import Item

LIVE = """
select l.feed, l.path, l.body from feed_live l
join unnest($1::text[], $2::text[]) as asked (feed, path) on l.feed = asked.feed and l.path = asked.path
"""


async def live(database: Database, items: Iterable[Item]) -> dict[tuple[str, str], bytes]:
    """By feed and path, the bytes of those records that the items would replace."""
    places = [(item.feed, item.path) for item in items]
    rows = await database.fetch(LIVE, [feed for feed, _ in places], [path for _, path in places])
    return {(row["feed"], row["path"]): bytes(decode(row["body"], FeedItem).record) for row in rows}
