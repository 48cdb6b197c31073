"""Numbers that are drawn before they are committed are seen out of order. Those of the log are not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from support.real_registry import World, tcp

WRITERS, WRITES_EACH = 16, 8

# Every fifth commit takes 30 ms longer, with everything done but not yet to be seen.
SLOW_COMMITS = """
    create function slow_commit() returns trigger language plpgsql as
    $$ begin if random() < 0.2 then perform pg_sleep(0.03); end if; return null; end $$;
    create constraint trigger slow_commit after insert on event_log
    deferrable initially deferred for each row execute function slow_commit();
"""


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


class Reader:
    """Reads what is new behind the greatest number that it has seen, over and over, as a relay does."""

    def __init__(self, table: str) -> None:
        self.seen: list[int] = []
        self._query = f"select seq from {table} where seq > $1 order by seq"  # noqa: S608

    async def read(self, connection: asyncpg.Connection) -> None:
        last = self.seen[-1] if self.seen else 0
        self.seen += [row["seq"] for row in await connection.fetch(self._query, last)]


async def test_a_reader_of_drawn_numbers_misses_rows(dsn: str) -> None:
    """The reason for the log's locked head, and the proof that a reader like the one below would notice."""
    reader = Reader("drawn")
    async with connected(dsn) as early, connected(dsn) as late, connected(dsn) as reading:
        await early.execute("create table drawn (seq bigserial primary key)")
        slow = early.transaction()
        await slow.start()
        await early.execute("insert into drawn default values")
        await late.execute("insert into drawn default values")
        await reader.read(reading)
        await slow.commit()
        await reader.read(reading)
        assert await reading.fetchval("select count(*) from drawn") == 2
    assert reader.seen == [2]


async def test_a_reader_of_the_log_misses_none_while_writers_commit_at_random(registry_world: World, dsn: str) -> None:
    world, reader = registry_world, Reader("event_log")
    await world.enrol("site-a")
    async with connected(dsn) as reading:
        await reading.execute(SLOW_COMMITS)

        async def writer(number: int) -> None:
            for step in range(WRITES_EACH):
                name = f"svc-{number}-{step}"
                await world.ask(tcp(name, 10000 + number * WRITES_EACH + step))

        writing = asyncio.gather(*(writer(number) for number in range(WRITERS)))
        while not writing.done():
            await reader.read(reading)
            await asyncio.sleep(0.005)
        await writing
        await reader.read(reading)
        rows = await reading.fetch("select seq, topic from event_log order by seq")

    assert sum(row["topic"] == "service-published" for row in rows) == WRITERS * WRITES_EACH
    assert reader.seen == [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
