"""Registry, keyring and relay on a real nats-server with the roles' own permissions, killed and wiped."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from kakuremichi.bus.nats import NatsBus
from kakuremichi.bus.port import BusError, Message
from kakuremichi.bus.provision import provision
from kakuremichi.bus.serve import serve
from kakuremichi.bus.server import NatsServer, running_server
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import decode, decode_any, encode
from kakuremichi.wire.commands import Written
from kakuremichi.wire.records import FeedItem
from kakuremichi.wire.requests import Announce, KeyAccepted, KeyRefused, SnapshotPage, SnapshotRequest
from kakuremichi.wire.signing import Signed
from kakuremichi_keyring.handlers import Keyring
from kakuremichi_keyring.pin import TrustPin
from kakuremichi_registry.trust import Trust
from support.real_registry import Enrollee, World, tcp, world

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def server(run_dir: Path) -> AsyncIterator[NatsServer]:
    async with running_server(run_dir) as made:
        yield made


@pytest.fixture
async def real_world(dsn: str, trust: Trust, server: NatsServer) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        registry, keyring, portal, provisioner = [
            await stack.enter_async_context(server.bus(role)) for role in ("registry", "keyring", "portal", "provision")
        ]
        for bus in (registry, keyring, portal, provisioner):
            await bus.wait_connected(10)
        await provision(provisioner)
        handlers = Keyring(keyring, TrustPin())
        await serve(keyring, subjects.ANNOUNCE, Announce, handlers.answer, queue="keyring", refuse=Keyring.refuse)
        yield await stack.enter_async_context(world(dsn, trust, registry, portal))


async def until(done: Callable[[], bool], within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        while not done():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.02)


async def publish(world: World, *numbers: int) -> None:
    for number in numbers:
        answer = await world.ask(tcp(f"s{number}", 10000 + number))
        assert isinstance(answer, Written), answer


async def stored(server: NatsServer, world: World, count: int) -> None:
    """Return once the stream holds so many messages, which the relay's own view confirms."""
    bus = world.registry._bus
    async with asyncio.timeout(40):
        while True:
            try:
                if (await bus.stream_state("FEED")).messages == count:
                    return
            except BusError:
                pass
            await asyncio.sleep(0.05)


async def hear(bus: NatsBus, subject: str, into: list[FeedItem]) -> None:
    async def on_item(message: Message) -> None:
        into.append(decode(decode(message.data, Signed).body, FeedItem))

    await bus.subscribe(subject, on_item)


async def test_a_node_enrols_announces_and_follows_through_the_real_server(
    real_world: World, server: NatsServer
) -> None:
    gateway, agent = await real_world.enrol("gw1", "gateway"), await real_world.enrol("site-a")
    async with (
        server.bus("gateway", node="gw1", pool="main") as at_gateway,
        server.bus("agent", node="site-a", pool="main") as at_agent,
    ):
        await at_gateway.wait_connected(10)
        await at_agent.wait_connected(10)
        heard: list[FeedItem] = []
        await hear(at_gateway, "feed.pool.main", heard)
        assert isinstance(await announce(at_agent, agent), KeyAccepted)
        assert isinstance(await announce(at_gateway, gateway), KeyAccepted)
        await publish(real_world, 1)
        await until(lambda: len(heard) == 2)
        ask = encode(SnapshotRequest(feed="feed.pool.main"))
        answer = await at_gateway.request(subjects.snapshot(gateway.node_id), ask, timeout_s=5)
        page = decode(answer.data, SnapshotPage)
        assert len(page.items) == 2


async def announce(bus: NatsBus, node: Enrollee) -> KeyAccepted | KeyRefused:
    request = encode(Announce(announcement=node.announcement()))
    answer = await bus.request(subjects.announce(node.node_id), request, timeout_s=5)
    decided: KeyAccepted | KeyRefused = decode_any(answer.data, KeyAccepted | KeyRefused, name="answer")
    return decided


async def test_a_server_killed_while_writes_go_on_loses_and_reorders_nothing(
    real_world: World, server: NatsServer
) -> None:
    await real_world.enrol("site-a")
    await publish(real_world, *range(20))
    await server.stop(signal.SIGKILL)
    for number in range(20, 30):  # the registry itself is asked: the portal has no bus either
        assert isinstance(await real_world.registry.commands.answer("", tcp(f"s{number}", 10000 + number)), Written)
    await server.start()
    await stored(server, real_world, 60)
    await in_order(real_world, server, 60)


async def test_a_wiped_store_is_filled_again_from_the_log(real_world: World, server: NatsServer) -> None:
    await real_world.enrol("site-a")
    await publish(real_world, *range(10))
    await stored(server, real_world, 20)
    await server.stop()
    shutil.rmtree(server.folder / "store")
    await server.start()
    async with server.bus("provision") as provisioner:
        await provisioner.wait_connected(10)
        await provision(provisioner)
    await real_world.portal.wait_connected(20)
    await real_world.registry._bus.wait_connected(20)
    await publish(real_world, 10)
    await stored(server, real_world, 22)
    await in_order(real_world, server, 22)


async def in_order(world: World, server: NatsServer, count: int) -> None:
    """The newest stored message of each feed is the feed's head, and no feed has more or fewer than it should."""
    bus = world.registry._bus
    heads = await world.database.fetch("select feed, feed_seq, hash from feed_head where feed_seq > 0")
    for head in heads:
        newest = await bus.last_stored("FEED", head["feed"])
        assert newest is not None
        item = decode(decode(newest.data, Signed).body, FeedItem)
        assert item.feed_seq == head["feed_seq"]
    newest = await bus.last_stored("FEED", "feed.>")
    assert newest is not None
    assert newest.subject == "feed.pool.main"
    assert (await bus.stream_state("FEED")).last_seq == count
