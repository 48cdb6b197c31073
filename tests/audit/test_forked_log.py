"""One log that goes on in two ways: gateways on a real bus are shown one each, and find out."""

from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from kakuremichi.bus.nats import NatsBus
from kakuremichi.bus.provision import provision
from kakuremichi.bus.server import NatsServer, running_server
from kakuremichi_registry.embedded_postgres import EmbeddedPostgres
from kakuremichi_registry.store import checkpoints as store
from kakuremichi_registry.trust import Trust
from support.real_registry import World, http, world
from support.witness import Gateway

pytestmark = pytest.mark.timeout(90)


def named(dsn: str) -> str:
    """The database of the address."""
    return urlsplit(dsn).path.removeprefix("/")


async def connected(stack: AsyncExitStack, bus: NatsBus) -> NatsBus:
    await stack.enter_async_context(bus)
    await bus.wait_connected(10)
    return bus


async def registry_on(stack: AsyncExitStack, server: NatsServer, dsn: str, trust: Trust) -> World:
    buses = [await connected(stack, server.bus(role)) for role in ("registry", "portal")]
    return await stack.enter_async_context(world(dsn, trust, buses[0], buses[1]))


async def goes_on(made: World, word: str) -> int:
    """The same number of rows, whatever they say, and a checkpoint of them."""
    for step in range(4):
        await made.ask(http("wiki", f"{word}{step}.example.com"))
    return await made.registry.checkpoints.make()


async def witnesses_of(made: World, size: int) -> list[int]:
    return [len(each.witnesses) for each in await store.between(made.database, size - 1, size, 1)]


async def test_who_saw_the_other_log_of_the_same_length_says_so_and_signs_nothing_more(
    dsn: str, trust: Trust, run_dir: Path, tmp_path: Path, postgres: EmbeddedPostgres
) -> None:
    fork = f"fork{uuid4().hex}"
    async with AsyncExitStack() as stack:
        admin = await asyncpg.connect(postgres.dsn)
        stack.push_async_callback(admin.close)
        server = await stack.enter_async_context(running_server(run_dir))
        await provision(await connected(stack, server.bus("provision")))
        async with AsyncExitStack() as first:
            made = await registry_on(first, server, dsn, trust)
            gateways = []
            for name in ("gw1", "gw2"):
                bus = await connected(stack, server.bus("gateway", node=name, pool="main"))
                gateways.append(Gateway(await made.enrol(name, "gateway"), bus, tmp_path / name))
            await made.enrol("site-a")
            common = await goes_on(made, "both")
            assert [await each.witness.once() for each in gateways] == [common, common]
            assert await witnesses_of(made, common) == [2]
        one, other = gateways
        await admin.execute(f'create database "{fork}" template "{named(dsn)}"')
        try:
            async with AsyncExitStack() as first:
                made = await registry_on(first, server, dsn, trust)
                size = await goes_on(made, "here")
                assert await one.witness.once() == size
            async with AsyncExitStack() as second:
                made = await registry_on(second, server, dsn.replace(named(dsn), fork), trust)
                assert await goes_on(made, "there") == size
                assert await other.witness.once() == size
                assert other.warnings == {"log": ""}, "it has seen nothing else"
                assert await one.witness.once() == size
                said = one.warnings["log"]
                assert said.startswith(f"log-fork: log of {size} rows: is another one than before")
                assert one.witness.evidence.exists()
                assert await witnesses_of(made, size) == [1], "only who was shown this one vouches for it"
                longer = await goes_on(made, "further")
                assert await one.witness.once() == size
                assert one.warnings["log"].startswith(f"log-fork: log of {longer} rows: does not continue")
                assert await other.witness.once() == longer
        finally:
            await admin.execute(f'drop database "{fork}" with (force)')
