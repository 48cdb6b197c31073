"""A real nats-server with the configuration that we write: its streams, and what passes between its accounts."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kakuremichi.bus.port import BusError, Message
from kakuremichi.bus.provision import provision
from kakuremichi.bus.server import NatsServer, running_server
from kakuremichi.bus.topology import FEED


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with running_server(tmp_path) as server, server.bus("provision") as bus:
        await bus.wait_connected(5)
        await provision(bus)
        yield server


async def test_the_edge_hears_feeds_and_answers_across_the_accounts(server: NatsServer) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: Message) -> None:
        heard.put_nowait(message.subject)

    async with server.bus("registry") as registry, server.bus("agent", node="ag-1") as agent:
        await registry.wait_connected(5)
        await agent.wait_connected(5)
        for subject in ("feed.fleet.blue", "feed.agent.ag-1", "beacon.fleet.blue"):
            await agent.subscribe(subject, hear)
            await registry.publish(subject, b"x")
            assert await asyncio.wait_for(heard.get(), 5) == subject


async def test_provision_creates_mends_and_then_leaves_alone(server: NatsServer) -> None:
    async with server.bus("provision") as bus:
        await bus.wait_connected(5)

        again = await provision(bus)
        smaller = await provision(bus, streams=[FEED.sized(1024**2)])
        mended = await provision(bus)

    assert [(each.stream, each.outcome) for each in again] == [("FEED", "unchanged"), ("AUDIT", "unchanged")]
    assert [(each.stream, each.outcome) for each in smaller] == [("FEED", "updated")]
    assert [each.outcome for each in mended] == ["updated", "unchanged"]


async def test_provision_tells_in_a_sentence_what_cannot_be(server: NatsServer) -> None:
    async with server.bus("provision") as bus:
        await bus.wait_connected(5)
        with pytest.raises(BusError, match=r"stream FEED: .*replicas > 1 not supported in non-clustered mode"):
            await provision(bus, replicas=3)


async def test_the_configuration_is_readable_by_its_owner_only(server: NatsServer) -> None:
    assert (server.folder / "nats-server.conf").stat().st_mode & 0o777 == 0o600
