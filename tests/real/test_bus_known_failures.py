"""Ten ways in which a bus is known to fail its users: each once against our own client, on a real server.

Those that need nothing but a server that dies or lies stand elsewhere and are only named here:

1. junk in the inbox of an ordered consumer ends the library's read loop: here
2. a slow reader loses messages in silence: here
3. a publish that was reported as failed appears later: `test_bus_supervision` (`..._never_appears_later`)
4. callbacks that raise: `test_bus_supervision` (`test_callbacks_that_raise_harm_nobody`)
5. an expired JWT closes the client for good: `security/test_bus_access`, and tunnels: `test_bus_access_in_the_lab`
6. TLS is stripped: `test_bus_supervision` (`test_no_credentials_are_sent_to_a_server_that_strips_tls`)
7. an id that holds a protocol line: here
8. the server as a confused deputy of who may create consumers: here
9. numbers that commit out of order: `test_registry_race`
10. the permissions of every role: `security/test_permissions`
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext

from kakuremichi.bus.issuer import MintRefusedError
from kakuremichi.bus.nats import Credentials, NatsBus, NatsOptions
from kakuremichi.bus.port import BusError, Message
from kakuremichi.bus.provision import provision
from kakuremichi.bus.server import NatsServer, find_nats_server, free_port, running_server
from kakuremichi.bus.subject import SubjectRefusedError
from kakuremichi.model.ids import NodeId, PoolName
from kakuremichi.model.keys import VerifyKey
from kakuremichi.reconcile.follower import Applied, Follower
from kakuremichi.reconcile.holding import Holding
from kakuremichi.reconcile.journal import Journal
from kakuremichi.runtime.backoff import Backoff
from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.records import Gone
from kakuremichi.wire.requests import SnapshotRequest
from support.feedmaker import FeedMaker, verifier

QUICK: dict[str, Any] = {"backoff": Backoff(0.05, 0.2), "stable_s": 0.0, "close_timeout_s": 0.5}
FEED, NODE = "feed.pool.blue", NodeId("gw-1")


class Nobody(Credentials):
    def connect_options(self) -> dict[str, object]:
        return {}


async def nobody() -> Credentials:
    return Nobody("", bytes)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with running_server(tmp_path) as server, server.bus("provision") as bus:
        await bus.wait_connected(5)
        await provision(bus)
        yield server


@contextlib.asynccontextmanager
async def open_server(folder: Path) -> AsyncIterator[str]:
    """The address of a server where everybody may do everything, which no configuration of ours allows."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        find_nats_server(), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder), "-l", str(folder / "log")
    )
    try:
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def until_true(true: Any, within_s: float = 20) -> None:
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110  (what is waited for lies in another process)
            await asyncio.sleep(0.01)


async def ordered_inbox(client: Client) -> tuple[str, JetStreamContext.PushSubscription]:
    """Where the server delivers to an ordered consumer of `client`."""
    subscription = await client.jetstream().subscribe("s.>", ordered_consumer=True)
    return subscription._sub._subject, subscription


async def end_consumer(subscription: JetStreamContext.PushSubscription) -> None:
    inner: Any = subscription._sub._jsi
    for task in filter(None, (inner._hbtask, inner._fctask)):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_message_that_ends_the_librarys_read_loop_costs_one_connection(tmp_path: Path) -> None:
    """Anybody who knows the inbox can send it. The library by itself stays "connected", and deaf."""
    async with (
        open_server(tmp_path) as url,
        NatsBus(NatsOptions(servers=(url,), name="gateway", inbox_prefix="reply.gw-1", **QUICK), nobody) as bus,
    ):
        await bus.wait_connected(20)
        sender, alone = await nats.connect(url), await nats.connect(url)
        await sender.jetstream().add_stream(name="S", subjects=["s.>"])
        connection = bus._supervisor.connection
        assert connection is not None
        heard: list[bytes] = []

        async def hear(message: Message) -> None:
            heard.append(message.data)

        await bus.subscribe(FEED, hear)
        consumers = []
        for client in (alone, connection._client):
            reading: Any = client._reading_task
            inbox, consumer = await ordered_inbox(client)
            consumers.append(consumer)
            async with asyncio.timeout(20):
                while not reading.done():  # the first after its creation is not always delivered
                    await sender.publish(inbox, b"x", reply="_INBOX.junk")
                    await asyncio.sleep(0.05)

        assert alone.is_connected, "the library notices by itself now: the wrapper's own look is not needed any more"
        await until_true(lambda: bus.generation == 2)
        await bus.wait_connected(20)
        await sender.publish(FEED, b"heard again")
        await until_true(lambda: heard == [b"heard again"])

        for consumer in consumers:
            await end_consumer(consumer)
        await sender.close()
        await alone.close()


async def answer_snapshots(registry: NatsBus, maker: FeedMaker) -> None:
    async def answer(message: Message) -> None:
        asked = decode(message.data, SnapshotRequest)
        await registry.publish(message.reply, encode(maker.page(asked.after, 50)))

    await registry.subscribe("req.registry.snapshot.*", answer)


async def test_a_follower_that_is_too_slow_knows_it_and_takes_a_snapshot(server: NatsServer, tmp_path: Path) -> None:
    maker, holding, stop, gate = FeedMaker(feed=FEED), Holding(FEED), asyncio.Event(), asyncio.Event()
    applied: list[Applied] = []
    async with (
        server.bus("gateway", node=NODE, queue_limit=10, **QUICK) as gateway,
        server.bus("registry", **QUICK) as registry,
    ):
        await gateway.wait_connected(10)
        await registry.wait_connected(10)
        await answer_snapshots(registry, maker)
        follower = Follower(gateway, NODE, holding, verifier(), Journal(tmp_path / "feeds", FEED), applied.append)
        take = follower._enqueue

        async def slowly(message: Message) -> None:
            await gate.wait()
            await take(message)

        follower._enqueue = slowly  # type: ignore[method-assign]
        following = asyncio.create_task(follower.run(stop))
        await until_true(lambda: follower.counters.snapshots == 1)

        for number in range(200):
            await registry.publish(FEED, encode(maker.write(Gone(kind="route", key=f"r{number}"))))
        await until_true(lambda: gateway.counts["overflowed"] > 0)
        await until_true(lambda: follower.counters.snapshots > 1)
        gate.set()
        await until_true(lambda: holding.cursor is not None and holding.cursor.feed_seq == maker.seq)
        assert (holding.cursor.hash, holding.total) == (maker.hash, maker.total)  # type: ignore[union-attr]

        stop.set()
        follower.resync()
        await asyncio.wait_for(following, 10)


# What made the library before 2.16 send a second command.
INJECTED = "n1 0\r\n\r\nPUB admin.cmd 4\r\nEVIL\r\nPUB x"


async def test_an_id_that_holds_a_protocol_line_is_refused_before_the_library_sees_it(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ignore(_message: Message) -> None:
        pass

    with pytest.raises(MintRefusedError):
        server.issuer.mint("gateway", VerifyKey(bytes(range(32))), NodeId(INJECTED), PoolName("blue"))
    async with server.bus("gateway", node=NODE, **QUICK) as gateway:
        await gateway.wait_connected(10)
        connection = gateway._supervisor.connection
        assert connection is not None
        seen: list[object] = []
        for call in ("publish", "subscribe"):
            monkeypatch.setattr(connection._client, call, lambda *args, **_more: seen.append(args))
        for sent in (
            lambda: gateway.publish(f"report.{INJECTED}", b""),
            lambda: gateway.publish(f"report.{NODE}", b"", reply=f"reply.{INJECTED}"),
            lambda: gateway.request(f"req.registry.snapshot.{INJECTED}", b"", timeout_s=1),
            lambda: gateway.store(f"feed.pool.{INJECTED}", b""),
            lambda: gateway.subscribe(f"feed.agent.{INJECTED}", ignore),
            lambda: gateway.subscribe(f"feed.agent.{INJECTED}.>", ignore),
        ):
            with pytest.raises(SubjectRefusedError):
                await sent()
        assert seen == []


@pytest.mark.parametrize("headers", [{"traceparent": INJECTED}, {"x\r\nPUB y 0\r\n": "1"}, {INJECTED: "1"}])
async def test_a_header_that_holds_a_protocol_line_adds_nothing(server: NatsServer, headers: dict[str, str]) -> None:
    """Neither a header nor a command more than what was asked for, whether it is refused or cleaned."""
    heard: list[Message] = []

    async def hear(message: Message) -> None:
        heard.append(message)

    async with server.bus("gateway", node=NODE, **QUICK) as gateway, server.bus("registry", **QUICK) as registry:
        await gateway.wait_connected(10)
        await registry.wait_connected(10)
        await registry.subscribe("report.*", hear)
        with contextlib.suppress(BusError):
            await gateway.publish(f"report.{NODE}", b"body", headers=headers)
        await gateway.publish(f"report.{NODE}", b"last")
        await until_true(lambda: bool(heard) and heard[-1].data == b"last")
        assert {message.data for message in heard} <= {b"body", b"last"}
        assert all(len(message.headers) <= 2 for message in heard)
        assert gateway.counts["violations"] == 0
        assert gateway.generation == 1


async def consumers_of(server: NatsServer, stream: str) -> int:
    async with server.bus("provision", **QUICK) as provisioner:
        await provisioner.wait_connected(10)
        answer = await provisioner.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout_s=10)
    count: int = msgspec.json.decode(answer.data)["state"]["consumer_count"]
    return count


@pytest.mark.parametrize("role", ["gateway", "agent"])
async def test_a_node_has_no_deputy_in_the_server(server: NatsServer, role: str) -> None:
    """Who may create a consumer may have stored messages delivered where he may not publish: nodes may not."""
    heard: list[Message] = []

    async def hear(message: Message) -> None:
        heard.append(message)

    config = {"deliver_subject": "feed.agent.ag-2", "ack_policy": "none", "deliver_policy": "all"}
    named = {**config, "name": "c", "filter_subject": FEED}
    async with (
        server.bus("registry", **QUICK) as registry,
        server.bus("agent", node="ag-2", **QUICK) as victim,
        server.bus(role, node="n-1", **QUICK) as attacker,
    ):
        for bus in (registry, victim, attacker):
            await bus.wait_connected(10)
        await victim.subscribe("feed.agent.ag-2", hear)
        await (await registry.store(FEED, b"stored"))
        for subject, wanted in (
            (f"$JS.API.CONSUMER.CREATE.FEED.c.{FEED}", named),
            ("$JS.API.CONSUMER.CREATE.FEED.c", {**config, "name": "c"}),
            ("$JS.API.CONSUMER.CREATE.FEED", config),
            ("$JS.API.CONSUMER.DURABLE.CREATE.FEED.c", {**config, "durable_name": "c"}),
        ):
            body = msgspec.json.encode({"stream_name": "FEED", "config": wanted})
            with pytest.raises(BusError, match="this role may not publish there"):
                await attacker.request(subject, body, timeout_s=10)
        await registry.publish("feed.agent.ag-2", b"the registry's own")
        await until_true(lambda: bool(heard))
    assert [message.data for message in heard] == [b"the registry's own"]
    assert await consumers_of(server, "FEED") == 0
