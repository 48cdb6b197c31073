"""What each role may not do, asked of a real nats-server with the configuration that we write."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kakuremichi.bus.nats import NatsBus
from kakuremichi.bus.port import Bus, BusError, BusTimeoutError, BusUnavailableError, Message
from kakuremichi.bus.provision import provision
from kakuremichi.bus.server import NatsServer, running_server
from kakuremichi.bus.subject import matches
from kakuremichi.bus.topology import FEED, ROLES, STREAMS, Role

# One of each kind of subject there is, and the ways around that were tried against earlier layouts.
SUBJECTS = (
    *("feed.pool.blue", "feed.fleet.blue", "feed.agent.ag-1", "beacon.pool.blue", "beacon.fleet.blue", "audit.node"),
    *("req.keyring.announce.n1", "req.registry.snapshot.n1", "req.registry.renew.n1", "req.registry.certificate.n1"),
    *("report.n1", "reply.n1.x.y", "cp.registry.key", "cp.registry.command"),
    *(f"_INBOX.{role.name}.x.y" for role in ROLES),
    *("_R_.x", "$SYS.REQ.USER.INFO", "$SRV.PING", "$KV.b.k", "$G.x", "feed.pool", "feed.pool.blue.extra", "audit"),
    *(
        f"$JS.API.{call}"
        for stream in STREAMS
        for call in (
            f"STREAM.INFO.{stream.name}",
            f"STREAM.CREATE.{stream.name}",
            f"STREAM.UPDATE.{stream.name}",
            f"STREAM.DELETE.{stream.name}",
            f"STREAM.PURGE.{stream.name}",
            f"STREAM.MSG.GET.{stream.name}",
            f"STREAM.MSG.DELETE.{stream.name}",
            f"STREAM.SNAPSHOT.{stream.name}",
            f"STREAM.RESTORE.{stream.name}",
            f"CONSUMER.CREATE.{stream.name}",
            f"CONSUMER.CREATE.{stream.name}.c.x",
            f"CONSUMER.DURABLE.CREATE.{stream.name}.c",
            f"CONSUMER.DELETE.{stream.name}.c",
            f"CONSUMER.MSG.NEXT.{stream.name}.c",
            f"DIRECT.GET.{stream.name}",
        )
    ),
    *("$JS.API.STREAM.NAMES", "$JS.API.INFO", "$JS.API.STREAM.CREATE.OTHER", "$JS.ACK.AUDIT.c.1.1.1.1.1"),
)
PATTERNS = (
    *SUBJECTS,
    *(">", "*", "*.*", "*.*.*", "feed.>", "feed.*.*", "beacon.>", "beacon.*.*", "audit.>", "req.>", "req.*.*.*"),
    *("report.>", "reply.>", "cp.>", "cp.registry.*", "_INBOX.>", "_INBOX.*.>", "$JS.>", "$SYS.>", "$SRV.>", "$KV.>"),
)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with running_server(tmp_path) as server, server.bus("provision") as bus:
        await bus.wait_connected(5)
        await provision(bus)
        yield server


def covers(allowed: tuple[str, ...], asked: str) -> bool:
    """Whether nats-server lets a user with `allowed` subscribe to `asked`."""
    return any(subset(asked.split("."), pattern.split(".")) for pattern in allowed)


def subset(asked: list[str], pattern: list[str]) -> bool:
    for position, token in enumerate(pattern):
        if token == ">":
            return len(asked) > position
        # nats-server compares a last ">" like any token, so it lets "audit.>" pass for "audit.*" (2.15.1).
        if position >= len(asked) or token not in ("*", asked[position]):
            return False
    return len(asked) == len(pattern)


async def refused_publishes(bus: NatsBus) -> int:
    before = -1
    while bus.counts["violations"] != before:
        before = bus.counts["violations"]
        await bus._supervisor.connection.round_trip(5)  # type: ignore[union-attr]
    return before


@pytest.mark.parametrize("role", [role.rendered() for role in ROLES], ids=lambda role: role.name)
async def test_a_role_publishes_to_its_own_subjects_only(server: NatsServer, role: Role) -> None:
    async with server.bus(role.name) as bus:
        await bus.wait_connected(5)
        for subject in SUBJECTS:
            allowed = any(matches(pattern, subject) for pattern in role.publish)
            already = bus.counts["violations"]

            await bus.publish(subject, b"{}")

            refused = await refused_publishes(bus) - already
            assert refused == (0 if allowed else 1), f"{role.name} publishes to {subject}"


@pytest.mark.parametrize("role", [role.rendered() for role in ROLES], ids=lambda role: role.name)
async def test_a_role_hears_its_own_subjects_only(server: NatsServer, role: Role) -> None:
    async def ignore(message: Message) -> None:
        pass

    async with server.bus(role.name) as bus:
        await bus.wait_connected(5)
        for pattern in PATTERNS:
            for queue in ("", "q"):
                if covers(role.subscribe, pattern):
                    await bus.subscribe(pattern, ignore, queue=queue)
                    continue
                with pytest.raises(BusError, match="may not subscribe there"):
                    await bus.subscribe(pattern, ignore, queue=queue)


async def test_a_refused_request_says_so_at_once(server: NatsServer) -> None:
    async with server.bus("gateway", node="gw-1") as gateway:
        await gateway.wait_connected(5)
        async with asyncio.timeout(2):
            with pytest.raises(BusError, match=r"\$JS\.API\.STREAM\.INFO\.FEED: this role may not publish there"):
                await gateway.request("$JS.API.STREAM.INFO.FEED", b"", timeout_s=30)


async def test_nobody_comes_in_without_a_role(server: NatsServer) -> None:
    password = server.config.passwords["gateway"]
    server.config.passwords["gateway"] = "guessed-guessed-guessed"  # type: ignore[index]
    async with server.bus("gateway", node="gw-1") as bus:
        with pytest.raises(BusUnavailableError):
            await bus.wait_connected(0.5)
        assert bus.counts["connection_failures"] >= 1
        server.config.passwords["gateway"] = password  # type: ignore[index]
        await bus.wait_connected(10)  # credentials are asked for anew


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


@pytest.mark.parametrize("reply", ["feed.pool.red", "beacon.pool.red", "audit.node", "$JS.API.STREAM.DELETE.FEED"])
async def test_a_keyring_that_answers_blindly_still_cannot_be_aimed_at_others(server: NatsServer, reply: str) -> None:
    """The second fence: even without the check of the reply, the server refuses the answer."""
    asked = asyncio.Event()
    async with server.bus("keyring") as keyring, server.bus("gateway", node="gw-1") as gateway:
        await keyring.wait_connected(5)
        await gateway.wait_connected(5)

        async def answer(message: Message) -> None:
            await keyring.publish(message.reply, b"aimed")
            asked.set()

        await keyring.subscribe("req.keyring.*.*", answer)
        await gateway.publish("req.keyring.announce.gw-1", b"", reply=reply)
        await asyncio.wait_for(asked.wait(), 5)

        assert await refused_publishes(keyring) == 1


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


async def ask(bus: Bus) -> None:
    await bus.stream_state("FEED")


async def test_only_the_control_plane_reaches_jetstream(server: NatsServer) -> None:
    async with server.bus("registry", probe=ask) as registry, server.bus("keyring") as keyring:
        await registry.wait_connected(5)
        await keyring.wait_connected(5)
        await ask(registry)
        with pytest.raises(BusError, match="may not publish") as refusal:
            await ask(keyring)
        assert not isinstance(refusal.value, BusTimeoutError)
