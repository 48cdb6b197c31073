"""A real nats-server with the configuration that we write: its streams, and what passes between its accounts."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kakuremichi.bus.port import BusError, Message
from kakuremichi.bus.provision import provision
from kakuremichi.bus.server import NatsServer, running_server
from kakuremichi.bus.stored import StreamReader
from kakuremichi.bus.topology import ARRIVALS, FEED, FOR_PORTALS, STREAMS, streams


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

    assert [(each.stream, each.outcome) for each in again] == [(stream.name, "unchanged") for stream in STREAMS]
    assert [(each.stream, each.outcome) for each in smaller] == [("FEED", "updated")]
    assert [each.stream for each in mended if each.outcome != "unchanged"] == ["FEED"]


async def test_what_is_kept_for_portals_has_the_age_that_is_asked_for_and_never_more_bytes_than_it_may(
    server: NatsServer,
) -> None:
    async with server.bus("provision") as bus, server.bus("registry") as registry, server.bus("portal") as portal:
        for each in (bus, registry, portal):
            await each.wait_connected(5)
        aged = await provision(bus, streams=streams(3600))
        for number in range(100):
            await registry.publish("cp.arrivals", b"%04d" % number * 10)
        async with asyncio.timeout(10):
            while (await portal.stream_state("ARRIVALS")).messages < 100:  # noqa: ASYNC110  # nobody is acked
                await asyncio.sleep(0.02)
        await provision(bus, streams=[ARRIVALS.sized(2048)])
        found = [message.data[:4] async for page in StreamReader(portal, "ARRIVALS").pages() for message in page]

    assert [each.stream for each in aged if each.outcome == "updated"] == [stream.name for stream in FOR_PORTALS]
    assert 0 < len(found) < 50
    assert found == [b"%04d" % number for number in range(100 - len(found), 100)]


async def test_provision_tells_in_a_sentence_what_cannot_be(server: NatsServer) -> None:
    async with server.bus("provision") as bus:
        await bus.wait_connected(5)
        with pytest.raises(BusError, match=r"stream FEED: .*replicas > 1 not supported in non-clustered mode"):
            await provision(bus, replicas=3)


async def test_the_configuration_is_readable_by_its_owner_only(server: NatsServer) -> None:
    assert (server.folder / "nats-server.conf").stat().st_mode & 0o777 == 0o600
