"""Answers by idempotency key: the same request again is answered again, and written once."""

from typing import NamedTuple

from kakuremichi_registry.database import Database
from kakuremichi_registry.store.entries import Written

FIND = """
select request_hash, answer, i.seq, feeds, feed_seqs, (select log_id from log_head) as log_id
from idempotency i where actor = $1 and key = $2 and at > clock_timestamp() - interval '24 hours'
"""


class Remembered(NamedTuple):
    request_hash: bytes
    answer: bytes
    written: Written


async def find(database: Database, actor: str, key: str) -> Remembered | None:
    row = await database.fetch_one(FIND, actor, key)
    return None if row is None else Remembered(row["request_hash"], row["answer"], Written.of(row))
