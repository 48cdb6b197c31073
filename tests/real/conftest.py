"""Fixtures of the tests with real servers: one PostgreSQL for the whole run, a database of its own for each test."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from kakuremichi.bus.memory import MemoryNats
from kakuremichi_registry.embedded_postgres import EmbeddedPostgres, start
from kakuremichi_registry.trust import Trust, init_trust
from support.history import folds_into_its_tables
from support.nftables_net import Net
from support.real_registry import World, world


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """Tests share it and never stop it; who wants to kill a server starts one of its own.

    `TEST_POSTGRES_BIN` names the programs of another PostgreSQL, 15 or newer.
    """
    directory = Path(tempfile.mkdtemp(prefix="kk-pg-"))
    named = os.environ.get("TEST_POSTGRES_BIN")
    server = start(directory, binaries=Path(named) if named else None)
    yield server
    server.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
async def dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """An empty database."""
    name = f"t{uuid4().hex}"
    admin = await asyncpg.connect(postgres.dsn)
    await admin.execute(f'create database "{name}"')
    yield postgres.dsn.replace("/postgres?", f"/{name}?")
    await admin.execute(f'drop database "{name}" with (force)')
    await admin.close()


@pytest.fixture(scope="session")
def trust() -> Iterator[Trust]:
    directory = Path(tempfile.mkdtemp(prefix="kk-trust-"))
    yield init_trust(directory)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def net() -> Iterator[Net]:
    """A gateway, an agent, a visitor and a machine of the site, in namespaces of their own."""
    with Net() as made:
        yield made


@pytest.fixture
def nats() -> MemoryNats:
    return MemoryNats()


@pytest.fixture
async def registry_world(dsn: str, trust: Trust, nats: MemoryNats) -> AsyncIterator[World]:
    """A registry on the bus in memory, with its relay, and the portal's connection.

    When the test is over, whatever it did: the log has to fold into the tables.
    """
    async with world(dsn, trust, nats.connect("registry"), nats.connect("portal")) as made:
        yield made
        if made.folds:
            await folds_into_its_tables(made.database)
