"""Snapshots of folded states, and where in the log a moment is."""

import zlib
from datetime import datetime

from kakuremichi.audit.state import State, dump, load
from kakuremichi_registry.database import Database
from kakuremichi_registry.store.entries import text_of

HEAD = "select log_id, seq from log_head"
# Where rows were retired, the log begins with the state there.
NEAREST = """
select seq, hash, at, body, (select log_id from log_head) as log_id from (
    select seq, hash, at, body from state_snapshot
    union all select seq, hash, at, state from log_cut where state is not null
) kept where seq <= $1 and seq > $2 order by seq desc limit 1
"""
NEWEST = "select greatest((select max(seq) from state_snapshot), (select max(seq) from log_cut), 0) as seq"
KEEP = """
insert into state_snapshot (seq, hash, at, body)
select seq, hash, at, $3 from event_log where seq = $1 and hash = $2 on conflict do nothing
"""


async def head(database: Database) -> tuple[str, int]:
    """(log id, sequence of the last row)."""
    row = await database.fetch_one(HEAD)
    return ("", 0) if row is None else (row["log_id"], row["seq"])


async def seq_at(database: Database, moment: datetime) -> int:
    """The last row that is not later than the moment, 0 if there is none."""
    row = await database.fetch_one("select kk_seq_at($1) as seq", moment)
    return 0 if row is None else row["seq"]


async def nearest(database: Database, seq: int, *, above: int = 0) -> State | None:
    """The stored state that is nearest to `seq` from below, if it lies above `above`."""
    row = await database.fetch_one(NEAREST, seq, above)
    if row is None:
        return None
    body = zlib.decompress(row["body"])
    return load(body, log_id=row["log_id"], seq=row["seq"], digest_of_row=row["hash"], at=text_of(row["at"]))


async def newest(database: Database) -> int:
    """How far the newest snapshot goes, 0 if there is none."""
    row = await database.fetch_one(NEWEST)
    return 0 if row is None else row["seq"]


async def keep(database: Database, state: State) -> None:
    """Store it, if it is of this log."""
    await database.execute(KEEP, state.seq, state.hash, zlib.compress(dump(state), 1))
