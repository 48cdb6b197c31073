"""A log in small partitions that grows quickly, for what takes 65,536 rows otherwise."""

import asyncio

from kakuremichi_registry.database import Database
from kakuremichi_registry.store import history, retirement

PARTITION = 1024  # rows; as long as a run of the tree

SMALL = f"""
create or replace function kk_log_partition_rows() returns bigint language sql immutable
    as 'select {PARTITION}::bigint';
drop table event_log_1, event_log_65537;
select kk_log_partition(1), kk_log_partition({PARTITION} + 1);
"""  # a number
# What people do besides writes to the fleet: it folds into nothing.
GROW = """
select kk_commit(row('person-signed-out', 'person/ann', json_build_object('type', 'person.signed-out.v1',
    'who', 'person/ann', 'session_id', number::text)::text, '', '', null, null)::kk_entry, '{}')
from generate_series(1, $1) as number
"""


async def small_partitions(database: Database) -> None:
    """While the log is empty."""
    async with database.own_connection() as connection:
        await connection.execute(SMALL)


async def grow_to(database: Database, rows: int) -> None:
    """Until the log has so many rows."""
    while (last := (await history.head(database))[1]) < rows:
        await database.fetch(GROW, min(500, rows - last))


async def relayed(database: Database, rows: int) -> None:
    """Until the stream AUDIT has stored so many, and the relay has noted that."""
    async with asyncio.timeout(40):
        while await retirement.relayed(database) < rows:  # noqa: ASYNC110  # a note in a table has no event
            await asyncio.sleep(0.1)
