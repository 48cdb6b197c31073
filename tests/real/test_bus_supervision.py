"""The supervised client against a nats-server that dies, freezes, lies and forbids."""

import asyncio
import contextlib
import os
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import nats.errors
import pytest

from kakuremichi.bus.nats import Credentials, NatsBus, NatsOptions
from kakuremichi.bus.port import Bus, BusError, BusTimeoutError, BusUnavailableError, Message
from kakuremichi.bus.provision import provision
from kakuremichi.bus.server import NatsServer, running_server
from kakuremichi.runtime.backoff import Backoff

QUICK: dict[str, Any] = {
    "ping_interval_s": 0.5,
    "probe_interval_s": 0.5,
    "probe_timeout_s": 1.0,
    "connect_timeout_s": 1.0,
    "stable_s": 0.0,
    "close_timeout_s": 0.5,
    "backoff": Backoff(0.05, 0.2),
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with running_server(tmp_path) as server, server.bus("provision") as bus:
        await bus.wait_connected(5)
        await provision(bus)
        await bus.close()
        yield server


@contextlib.asynccontextmanager
async def quick(server: NatsServer, role: str, node: str = "", **options: Any) -> AsyncIterator[NatsBus]:
    async with server.bus(role, node=node, **{**QUICK, **options}) as bus:
        await bus.wait_connected(10)
        yield bus


async def until(true: Callable[[], bool], within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110  (what is waited for lies in another process)
            await asyncio.sleep(0.01)


def collector(into: list[bytes]) -> Callable[[Message], Awaitable[None]]:
    async def collect(message: Message) -> None:
        into.append(message.data)

    return collect


async def test_after_kill_9_it_comes_back_with_its_subscriptions(server: NatsServer) -> None:
    generations: list[int] = []
    heard: list[bytes] = []
    async with quick(server, "gateway", "gw-1") as gateway, quick(server, "registry") as registry:
        gateway.on_connected(generations.append)
        await gateway.subscribe("feed.pool.blue", collector(heard))
        for round_ in (1, 2):
            await server.stop(signal.SIGKILL)
            await until(lambda: not gateway.connected and not registry.connected)
            with pytest.raises(BusUnavailableError):
                await registry.publish("feed.pool.blue", b"meanwhile")

            await server.start()
            await gateway.wait_connected(10)
            await registry.wait_connected(10)
            await registry.publish("feed.pool.blue", b"after %d" % round_)
            await until(lambda expected=round_: len(heard) == expected)  # type: ignore[misc]

        assert heard == [b"after 1", b"after 2"]
        assert generations == [2, 3]
        assert gateway.generation == 3


async def test_a_frozen_server_is_left_and_found_again(server: NatsServer) -> None:
    async with quick(server, "gateway", "gw-1") as gateway, quick(server, "registry") as registry:
        heard: list[bytes] = []
        await gateway.subscribe("feed.pool.blue", collector(heard))
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await until(lambda: not gateway.connected)
        finally:
            os.kill(server.pid, signal.SIGCONT)

        async with asyncio.timeout(20):
            while not heard:  # either may still leave its old connection; what is sent then is lost
                with contextlib.suppress(BusUnavailableError):
                    await registry.publish("feed.pool.blue", b"thawed")
                await asyncio.sleep(0.1)
        assert gateway.generation >= 2


async def test_a_short_freeze_leaves_the_connection_alone(server: NatsServer) -> None:
    """A ping that is given up must not make the client deaf once its answer comes."""
    often: dict[str, Any] = {
        "probe_misses": 1000,
        "probe_interval_s": 0.1,
        "probe_timeout_s": 0.2,
        "ping_interval_s": 60.0,
    }
    async with quick(server, "gateway", "gw-1", **often) as gateway:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await until(lambda: gateway.counts["probe_misses"] >= 2)
        finally:
            os.kill(server.pid, signal.SIGCONT)

        async with quick(server, "registry") as registry:
            heard: list[bytes] = []
            await gateway.subscribe("feed.pool.blue", collector(heard))
            await registry.publish("feed.pool.blue", b"still here")
            await until(lambda: heard == [b"still here"])
        assert gateway.generation == 1


async def test_a_publish_that_failed_never_appears_later(server: NatsServer) -> None:
    async with quick(server, "registry") as registry:
        await (await registry.store("feed.pool.blue", b"before"))
        await server.stop(signal.SIGKILL)
        failed = 0
        for number in range(50):
            try:
                await (await registry.store("feed.pool.blue", b"ghost %d" % number))
            except (BusUnavailableError, BusTimeoutError):
                failed += 1
        assert failed == 50

        await server.start()
        await registry.wait_connected(10)
        await (await registry.store("feed.pool.blue", b"after"))

        assert (await registry.stream_state("FEED")).messages == 2


async def test_what_waits_for_an_answer_is_told_when_the_connection_breaks(server: NatsServer) -> None:
    async with quick(server, "registry") as registry, quick(server, "gateway", "gw-1") as gateway:
        await registry.subscribe("req.registry.*.*", collector([]))
        asking = asyncio.create_task(gateway.request("req.registry.snapshot.gw-1", b"", timeout_s=60))
        await asyncio.sleep(0.1)

        await server.stop(signal.SIGKILL)

        with pytest.raises(BusTimeoutError, match="the connection broke before an answer came"):
            await asyncio.wait_for(asking, 5)


async def test_callbacks_that_raise_harm_nobody(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(_: object) -> None:
        raise RuntimeError("a callback of somebody else")

    async with quick(server, "gateway", "gw-1") as gateway, quick(server, "registry") as registry:
        gateway.on_connected(bad)
        connection = gateway._supervisor.connection
        assert connection is not None
        monkeypatch.setattr(connection, "_note", bad)
        await gateway.publish("audit.forged", b"")  # a violation, so the error callback runs
        await connection.round_trip(5)

        heard: list[bytes] = []
        await gateway.subscribe("feed.pool.blue", collector(heard))
        await registry.publish("feed.pool.blue", b"one")
        await until(lambda: heard == [b"one"])
        await server.stop(signal.SIGKILL)
        await server.start()
        await gateway.wait_connected(10)
        await registry.wait_connected(10)
        await registry.publish("feed.pool.blue", b"two")
        await until(lambda: heard == [b"one", b"two"])


async def test_a_dead_read_loop_is_noticed_at_once(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library stays "connected" when its read loop dies; flush succeeds and nothing is ever received."""
    async with quick(server, "gateway", "gw-1", probe_interval_s=60.0, ping_interval_s=60.0) as gateway:
        connection = gateway._supervisor.connection
        assert connection is not None

        async def junk(*_: object) -> None:
            raise ValueError("not enough values to unpack")

        monkeypatch.setattr(connection._client, "_process_msg", junk)
        heard: list[bytes] = []
        await gateway.subscribe("feed.pool.blue", collector(heard))
        async with quick(server, "registry") as registry:
            await registry.publish("feed.pool.blue", b"kills the loop")
            await until(lambda: gateway.generation == 2, within_s=5)
            await registry.publish("feed.pool.blue", b"heard")
            await until(lambda: heard == [b"heard"])


async def test_a_probe_that_nobody_answers_brings_a_new_connection(server: NatsServer) -> None:
    answers = False

    async def probe(bus: Bus) -> None:
        if not answers:
            await bus.request("req.registry.snapshot.gw-1", b"", timeout_s=0.1)

    async with server.bus("gateway", node="gw-1", probe=probe, **{**QUICK, "probe_interval_s": 0.1}) as gateway:
        await until(lambda: gateway.generation == 2)
        answers = True
        await gateway.wait_connected(5)
        generation = gateway.generation
        misses = gateway.counts["probe_misses"]
        await asyncio.sleep(1)
        assert (gateway.generation, gateway.counts["probe_misses"]) == (generation, misses)


async def test_a_refusal_is_proof_of_life(server: NatsServer) -> None:
    asked = 0

    async def probe(bus: Bus) -> None:
        nonlocal asked
        asked += 1
        await bus.stream_state("NOBODY")

    async with server.bus("gateway", node="gw-1", probe=probe, **QUICK) as gateway:
        await until(lambda: asked >= 4)
        assert gateway.generation == 1


async def test_overflow_drops_counts_and_tells_instead_of_losing_silently(server: NatsServer) -> None:
    gate = asyncio.Event()
    told: list[str] = []
    heard: list[bytes] = []

    async def slow(message: Message) -> None:
        await gate.wait()
        heard.append(message.data)

    async with quick(server, "gateway", "gw-1", queue_limit=10) as gateway, quick(server, "registry") as registry:
        gateway.on_overflow(told.append)
        await gateway.subscribe("feed.pool.blue", slow)
        for number in range(200):
            await registry.publish("feed.pool.blue", b"%d" % number)
        await until(lambda: gateway.counts["overflowed"] >= 189)
        # Once an episode; the handler may take its first message in the middle and so begin a second one.
        assert told in (["feed.pool.blue"], ["feed.pool.blue"] * 2)

        gate.set()
        await until(lambda: len(heard) == 200 - gateway.counts["overflowed"])
        assert heard[:10] == [b"%d" % number for number in range(10)]
        await registry.publish("feed.pool.blue", b"again")
        await until(lambda: heard[-1] == b"again")


async def test_a_subscription_made_while_disconnected_stands_after_the_connection(server: NatsServer) -> None:
    heard: list[bytes] = []
    await server.stop()
    async with server.bus("gateway", node="gw-1", **QUICK) as gateway:
        await gateway.subscribe("feed.pool.blue", collector(heard))
        with pytest.raises(BusUnavailableError, match="not connected"):
            await gateway.publish("report.gw-1", b"")
        await server.start()
        await gateway.wait_connected(10)
        async with quick(server, "registry") as registry:
            await registry.publish("feed.pool.blue", b"first")
            await until(lambda: heard == [b"first"])


async def test_closing_lets_the_handler_finish_and_leaves_nothing_behind(server: NatsServer) -> None:
    done: list[bytes] = []
    started = asyncio.Event()

    async def slow(message: Message) -> None:
        started.set()
        await asyncio.sleep(0.2)
        done.append(message.data)

    before = asyncio.all_tasks()
    async with quick(server, "gateway", "gw-1", close_timeout_s=5.0) as gateway, quick(server, "registry") as registry:
        await gateway.subscribe("feed.pool.blue", slow)
        await registry.publish("feed.pool.blue", b"in hand")
        await registry.publish("feed.pool.blue", b"waiting")
        await started.wait()
        await gateway.close()
        assert done == [b"in hand"]
    await until(lambda: asyncio.all_tasks() == before)


async def test_credentials_that_cannot_be_had_are_asked_for_again(server: NatsServer) -> None:
    asked = 0

    async def credentials() -> Credentials:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise OSError("no renewal now")
        return await server.node("gateway", "gw-1")()

    options = NatsOptions(servers=(server.url,), name="gateway", inbox_prefix="reply.gw-1", **QUICK)
    async with NatsBus(options, credentials) as bus:
        await bus.wait_connected(10)
        assert asked == 2
        assert bus.counts["connection_failures"] == 1
    assert repr(Credentials("the-jwt", bytes)) == "Credentials()"


async def test_the_next_server_is_tried(server: NatsServer) -> None:
    async with server.bus("gateway", node="gw-1", **QUICK, servers=("nats://127.0.0.1:1", server.url)) as bus:
        await bus.wait_connected(10)


async def test_no_credentials_are_sent_to_a_server_that_strips_tls() -> None:
    """A man in the middle who answers in plain text gets a ClientHello, never the CONNECT line with the JWT."""
    got = bytearray()

    async def strip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","max_payload":65536,"tls_required":false}\r\n')
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                while data := await reader.read(4096):
                    got.extend(data)
        writer.close()

    async def credentials() -> Credentials:
        return Credentials("the-jwt-of-the-node", bytes)

    liar = await asyncio.start_server(strip, "127.0.0.1", 0)
    port = liar.sockets[0].getsockname()[1]
    options = NatsOptions(
        servers=(f"tls://127.0.0.1:{port}",),
        name="gateway",
        inbox_prefix="reply.gw-1",
        tls=ssl.create_default_context(),
        **QUICK,
    )
    async with liar, NatsBus(options, credentials) as bus:
        await until(lambda: bus.counts["connection_failures"] >= 2)
        assert not bus.connected
    assert got
    assert b"CONNECT" not in got
    assert b"the-jwt" not in got


async def test_a_supervision_that_dies_takes_its_loop_with_it(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with quick(server, "gateway", "gw-1") as gateway:
        stop = asyncio.Event()
        holding = asyncio.create_task(gateway.hold(stop))
        stop.set()
        await asyncio.wait_for(holding, 5)

        async def broken(_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(gateway._supervisor, "_watch", broken)
        connection = gateway._supervisor.connection
        assert connection is not None
        connection.lose("by the test")
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(gateway.hold(asyncio.Event()), 5)


async def publish_much(bus: Bus) -> None:
    for _ in range(1000):
        await bus.publish("feed.pool.blue", bytes(60000))
        await asyncio.sleep(0)


async def test_a_stalled_peer_makes_publishing_fail_instead_of_filling_memory(server: NatsServer) -> None:
    calm: dict[str, Any] = {"probe_interval_s": 60.0, "ping_interval_s": 60.0, "unsent_limit_bytes": 1024 * 1024}
    async with quick(server, "registry", **calm) as registry:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(BusUnavailableError, match="the server does not read"):
                await publish_much(registry)
        finally:
            os.kill(server.pid, signal.SIGCONT)


def test_the_library_still_has_what_the_wrapper_looks_at() -> None:
    from nats.aio.client import Client  # noqa: PLC0415

    client = Client()
    for private in ("_reading_task", "_transport", "_subs", "_process_msg"):
        assert hasattr(client, private)
    assert issubclass(nats.errors.OutboundBufferLimitError, nats.errors.Error)
    assert issubclass(BusUnavailableError, BusError)
