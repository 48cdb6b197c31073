"""The registry's connections to PostgreSQL: kept between statements, few, and replaced when they are gone."""

import asyncio

import asyncpg
import pytest

from kakuremichi_registry.database import Database, open_database

OURS = (
    "select pid from pg_stat_activity where application_name = 'kakuremichi-registry' and datname = current_database()"
)
MOST = 10


async def pids(database: Database) -> set[int]:
    return {row["pid"] for row in await database.fetch(OURS)}


async def test_one_after_another_they_use_the_same_connection(dsn: str) -> None:
    async with open_database(dsn) as database:
        used = {(await database.fetch("select pg_backend_pid()"))[0][0] for _ in range(20)}

    assert len(used) == 1


async def test_a_crowd_shares_a_few_connections_and_everybody_is_served(dsn: str) -> None:
    async with open_database(dsn) as database:
        rows = await asyncio.gather(*(database.fetch("select $1::int, pg_sleep(0.01)", n) for n in range(100)))
        count = len(await pids(database))

    assert [found[0][0] for found in rows] == list(range(100))
    assert count <= MOST


async def test_connections_that_the_server_ended_are_replaced(dsn: str) -> None:
    async with open_database(dsn) as database:
        await asyncio.gather(*(database.fetch("select pg_sleep(0.05)") for _ in range(MOST)))
        before = await pids(database)
        admin = await asyncpg.connect(dsn)
        await admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'kakuremichi-registry' and datname = current_database()"
        )
        await admin.close()

        answers = await asyncio.gather(*(database.fetch("select 1") for _ in range(3 * MOST)))
        after = await pids(database)

    assert [found[0][0] for found in answers] == [1] * 3 * MOST
    assert before
    assert not before & after


async def test_a_statement_that_fails_or_is_given_up_costs_no_connection(dsn: str) -> None:
    async with open_database(dsn) as database:
        for _ in range(3 * MOST):
            with pytest.raises(asyncpg.PostgresError):
                await database.fetch("select 1 / 0")
            given_up = asyncio.create_task(database.fetch("select pg_sleep(20)"))
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.gather(given_up, return_exceptions=True)

        assert (await database.fetch("select 1"))[0][0] == 1
        assert len(await pids(database)) <= MOST
