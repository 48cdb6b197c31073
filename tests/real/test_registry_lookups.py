"""What a change of one service reads in a large deployment: its own rows, not every row there is."""

from collections.abc import Sequence
from typing import cast

import asyncpg
import pytest

from kakuremichi.model.ids import ServiceId
from kakuremichi.wire.commands import PublishService, UnpublishService
from kakuremichi_registry import publishing
from kakuremichi_registry.database import SETTINGS, Database
from kakuremichi_registry.forms import check_form
from kakuremichi_registry.store import publishing as services
from kakuremichi_registry.store.entries import entry_of
from support.real_registry import World, http

MANY = 3000
# An agent, its feed and a service for each number, as they would be in the tables.
FILL = (
    """insert into node (node_id, role, pool, subnet, identity_key, sealing_key, certificate, serial)
    select 'crowd-' || n, 'agent', 'main', ('10.' || 100 + n / 250 || '.' || n % 250 || '.0/24')::cidr,
           sha256(int4send(n)), sha256(int4send(n)), 'certificate', 1 from generate_series(1, $1::integer) n""",
    "insert into feed_head (feed) select 'feed.agent.crowd-' || n from generate_series(1, $1::integer) n",
    """insert into service (service_id, pool, kind, host, path, first_port, last_port, sources)
    select 's-' || n, 'main', 'http', 'h' || n || '.example.com', '', 0, 0, '{}'
    from generate_series(1, $1::integer) n""",
    """insert into service_target select 's-' || n || '-1', 's-' || n, 'crowd-' || n, 'tcp', 20000, 20000, '127.0.0.1',
           80, int8range(n, n + 1) from generate_series(1, $1::integer) n""",
)
READ = "select relname, seq_tup_read from pg_stat_xact_user_tables where seq_tup_read >= $1 order by relname"


class OneTransaction:
    """A `Database` on one connection, so that one transaction holds all that is counted."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection

    async def fetch(self, query: str, *args: object) -> Sequence[asyncpg.Record]:
        return await self._connection.fetch(query, *args)

    async def write(self, query: str, *args: object) -> asyncpg.Record | None:
        return await self._connection.fetchrow(query, *args)


async def publish(database: Database, command: PublishService) -> None:
    wanted = check_form(command)
    decided = publishing.decide(command, wanted, await services.see_publish(database, wanted))
    await services.publish(database, entry_of(decided.fact, command), decided)


async def unpublish(database: Database, name: str) -> None:
    command = UnpublishService(actor="alice", service_id=ServiceId(name))
    old, items, fact = publishing.withdraw(command, await services.see_unpublish(database, name))
    await services.unpublish(database, entry_of(fact, command), old, items)


@pytest.mark.parametrize("analyzed", [False, True])
async def test_publishing_changing_and_removing_a_service_reads_no_whole_table(
    registry_world: World, dsn: str, *, analyzed: bool
) -> None:
    registry_world.folds = False
    await registry_world.enrol("site-a")
    for statement in FILL:
        await registry_world.database.execute(statement, MANY)
    if analyzed:
        await registry_world.database.execute("analyze")
    connection = await asyncpg.connect(dsn, server_settings=SETTINGS)  # that has read nothing yet
    try:
        async with connection.transaction():
            database = cast("Database", OneTransaction(connection))
            await publish(database, http("wiki"))
            await publish(database, http("wiki", "other.example.com"))
            await unpublish(database, "wiki")
            read = await connection.fetch(READ, MANY)
    finally:
        await connection.close()

    assert [tuple(row) for row in read] == []
