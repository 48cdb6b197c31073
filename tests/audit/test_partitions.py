"""The log in partitions: what an older release wrote is the first, and the next are there before they are needed."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from kakuremichi_registry.migrate import migrate, shipped

OLD = """
insert into log_head (log_id, seq) values ('log-1', 70000);
insert into event_log
select seq, '\\x', '\\x', 'topic', 'ann', clock_timestamp(), '{}', '' from generate_series(1, 70000) seq;
"""
COMMIT = "select kk_commit(row('topic', 'ann', '{}', '', '', null, null)::kk_entry, '{}')"
PARTITIONS = "select name, first_row, last_row from log_partition order by first_row"


async def partitions(connection: "asyncpg.Connection[asyncpg.Record]") -> list[tuple[str, int, int]]:
    return [tuple(row) for row in await connection.fetch(PARTITIONS)]


@pytest.fixture
async def connection(dsn: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    made = await asyncpg.connect(dsn, command_timeout=30)
    yield made
    await made.close()


async def test_rows_of_an_older_release_become_one_first_partition(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    await connection.execute(
        "create table migration (name text primary key, checksum text not null, at timestamptz not null default now())"
    )
    for old in shipped():
        if old.name < "0013":
            await connection.execute(old.sql)
            await connection.execute("insert into migration values ($1, $2)", old.name, old.checksum)
    await connection.execute(OLD)
    assert "0013_retention.sql" in await migrate(connection)
    assert await partitions(connection) == [("event_log_1", 1, 131072), ("event_log_131073", 131073, 196608)]
    await connection.execute(COMMIT)
    assert await connection.fetchval("select count(*) from event_log") == 70001
    plan = await connection.fetch("explain select from event_log where seq = 70001")
    assert not any("event_log_131073" in row[0] for row in plan)


async def test_the_partition_after_the_next_is_made_by_the_write_that_begins_one(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    await migrate(connection)
    await connection.execute("insert into log_head (log_id, seq) values ('log-1', 65535)")
    await connection.execute(COMMIT)
    assert [first for _, first, _ in await partitions(connection)] == [1, 65537]
    await connection.execute(COMMIT)
    assert [first for _, first, _ in await partitions(connection)] == [1, 65537, 131073]
    await connection.execute("update log_head set seq = 262144")  # as where rows were put in otherwise
    await connection.execute(COMMIT)
    assert [first for _, first, _ in await partitions(connection)] == [1, 65537, 131073, 262145, 327681]
    assert await connection.fetchval("select max(seq) from event_log") == 262145
