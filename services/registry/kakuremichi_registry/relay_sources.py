"""What the two relay loops move: items of the feeds, and facts of the log. Rows in the order of commits."""

from dataclasses import dataclass
from typing import Protocol

import msgspec

from kakuremichi.wire.codec import encode
from kakuremichi.wire.facts import LoggedFact
from kakuremichi.wire.subjects import audit
from kakuremichi_registry.database import Database
from kakuremichi_registry.signer import Signer
from kakuremichi_registry.store.entries import text_of

ITEMS = """
select item_seq, feed, (select log_id from log_head) as log_id, feed_seq, body, hash, traceparent
from feed_item where item_seq > $1 order by item_seq limit $2
"""
FACTS = """
select (select log_id from log_head) as log_id, seq, prev, hash, topic, actor, at, fact, traceparent
from event_log where seq > $1 order by seq limit $2
"""
# A row that was retired is known without being there.
POSITION = """
select $1::bigint as seq from log_head
where log_id = $2 and (exists (select from event_log where seq = $1) or $1 <= (select max(seq) from log_cut))
"""


@dataclass(frozen=True, slots=True)
class Row:
    position: int  # dense and ascending within a source
    subject: str
    message_id: str
    data: bytes
    traceparent: str


class Source(Protocol):
    stream: str
    pattern: str  # all subjects of the stream

    async def rows(self, after: int, limit: int) -> list[Row]: ...

    async def position_of(self, message_id: str) -> int | None:
        """Where in the log the message with this id comes from; None if it is not of this log."""
        ...


class FeedItems:
    stream = "FEED"
    pattern = "feed.>"

    def __init__(self, database: Database, signer: Signer) -> None:
        self._database, self._signer = database, signer

    async def rows(self, after: int, limit: int) -> list[Row]:
        return [
            Row(
                position=row["item_seq"],
                subject=row["feed"],
                message_id=f"{row['feed']}:{row['log_id']}:{row['feed_seq']}",
                data=encode(self._signer.item(row["hash"], row["body"])),
                traceparent=row["traceparent"],
            )
            for row in await self._database.fetch(ITEMS, after, limit)
        ]

    async def position_of(self, message_id: str) -> int | None:
        feed, _, rest = message_id.partition(":")
        log_id, _, number = rest.partition(":")
        if not number.isdigit():
            return None
        row = await self._database.fetch_one(
            "select item_seq from feed_item where feed = $1 and feed_seq = $2 and $3 = (select log_id from log_head)",
            feed, int(number), log_id,
        )  # fmt: skip
        return None if row is None else row["item_seq"]


class Facts:
    stream = "AUDIT"
    pattern = "audit.>"

    def __init__(self, database: Database) -> None:
        self._database = database

    async def rows(self, after: int, limit: int) -> list[Row]:
        return [
            Row(
                position=row["seq"],
                subject=audit(row["topic"]),
                message_id=f"{row['log_id']}:{row['seq']}",
                data=msgspec.json.encode(
                    LoggedFact(
                        log_id=row["log_id"], seq=row["seq"], prev=row["prev"].hex(), hash=row["hash"].hex(),
                        topic=row["topic"], actor=row["actor"], at=text_of(row["at"]), fact=row["fact"],
                    )
                ),
                traceparent=row["traceparent"],
            )
            for row in await self._database.fetch(FACTS, after, limit)
        ]  # fmt: skip

    async def position_of(self, message_id: str) -> int | None:
        log_id, _, number = message_id.partition(":")
        if not number.isdigit():
            return None
        row = await self._database.fetch_one(POSITION, int(number), log_id)
        return None if row is None else row["seq"]
