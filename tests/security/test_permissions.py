"""What each role may not do: everything of everybody else, tried on a real nats-server in operator mode."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from kakuremichi.bus.nats import NatsBus
from kakuremichi.bus.permission_table import BEGIN, END, permission_table
from kakuremichi.bus.port import BusError, BusTimeoutError, Message
from kakuremichi.bus.provision import provision
from kakuremichi.bus.serve import serve
from kakuremichi.bus.server import NatsServer, running_server
from kakuremichi.bus.subject import matches
from kakuremichi.bus.topology import ROLES, STREAMS, Role
from kakuremichi.wire.requests import SnapshotRefused, SnapshotRequest

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).resolve().parents[2]

NODE, POOL = "n1", "blue"
OTHERS = (("n2", "red"), (NODE, "red"), ("n2", POOL))

# Ways around that were tried against earlier layouts, and everything that JetStream and the server itself offer.
BEYOND = (
    *("_R_.x", "$SYS.REQ.USER.INFO", "$SYS.REQ.SERVER.PING", "$SYS.REQ.CLAIMS.DELETE", "$SYS.REQ.CLAIMS.LIST"),
    *("$SYS.REQ.CLAIMS.PACK", "$SYS.REQ.ACCOUNT.PING.CONNZ", "$SRV.PING", "$KV.b.k", "$O.b.C.k", "$G.x", "$LDS.x"),
    *("feed.pool", "feed.pool.blue.extra", "audit", "audit.node.extra", "report", "req.registry.renew"),
    *("req.registry.renew.n1.extra", "req.keyring.challenge.n1", "_INBOX.x", "reply.n1", "admin.cmd"),
    *("feed.agent.{{name()}}", "feed.pool.{{tag(pool)}}"),
    *(
        f"$JS.API.{call}"
        for stream in STREAMS
        for call in (
            f"STREAM.DELETE.{stream.name}",
            f"STREAM.PURGE.{stream.name}",
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
    *("$JS.API.STREAM.NAMES", "$JS.API.INFO", "$JS.API.STREAM.CREATE.OTHER", "$JS.ACK.AUDIT.c.1.1.1.1.1", "$JS.FC.x"),
)
WIDE = (
    *(">", "*", "*.*", "*.*.*", "*.*.*.*", "feed.>", "feed.*.*", "feed.pool.*", "beacon.>", "beacon.*.*", "audit.>"),
    *("req.>", "req.*.*.*", "req.registry.>", "report.>", "reply.>", "reply.*.>", "cp.>", "cp.registry.*"),
    *("_INBOX.>", "_INBOX.*.>", "$JS.>", "$SYS.>", "$SRV.>", "$KV.>", "$JS.EVENT.>", "feed.agent.>", "feed.fleet.>"),
)


def own(role: Role) -> Role:
    """The role with the ids of the node that the test is."""
    return role.rendered(node=NODE, pool=POOL) if role.account == "EDGE" else role


def everybody() -> Iterator[str]:
    """Every subject that any role may use, its own and those of other nodes and pools; patterns too."""
    for role in ROLES:
        for node, pool in ((NODE, POOL), *OTHERS):
            rendered = role.rendered(node=node, pool=pool)
            yield from (*rendered.publish, *rendered.subscribe)


PATTERNS = tuple(dict.fromkeys((*everybody(), *BEYOND, *WIDE)))
SUBJECTS = tuple(dict.fromkeys(each.replace("*", "w").replace(">", "x.y") for each in (*everybody(), *BEYOND)))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with running_server(tmp_path) as server, server.bus("provision") as bus:
        await bus.wait_connected(5)
        await provision(bus)
        yield server


def user(server: NatsServer, role: Role) -> NatsBus:
    return server.bus(role.name, node=NODE if role.account == "EDGE" else "", pool=POOL)


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


async def refusals(bus: NatsBus) -> int:
    """How often the server has refused this connection a subject, all that was sent before included."""
    before = -1
    while bus.counts["violations"] != before:
        before = bus.counts["violations"]
        await bus._supervisor.connection.round_trip(5)  # type: ignore[union-attr]
    return before


async def ignore(message: Message) -> None:
    pass


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
async def test_a_role_publishes_to_its_own_subjects_only(server: NatsServer, role: Role) -> None:
    sendable = [subject for subject in SUBJECTS if "{" not in subject]
    async with user(server, role) as bus:
        await bus.wait_connected(5)
        for subject in sendable:
            allowed = any(matches(pattern, subject) for pattern in own(role).publish)
            already = bus.counts["violations"]

            await bus.publish(subject, b"{}")

            refused = await refusals(bus) - already
            assert refused == (0 if allowed else 1), f"{role.name} publishes to {subject}"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
async def test_a_role_hears_its_own_subjects_only(server: NatsServer, role: Role) -> None:
    """Alone and as a member of a queue group, which would take messages away from those they are for."""
    async with user(server, role) as bus:
        await bus.wait_connected(5)
        for pattern in (pattern for pattern in PATTERNS if "{" not in pattern):
            for queue in ("", "registry"):
                if covers(own(role).subscribe, pattern):
                    await (await bus.subscribe(pattern, ignore, queue=queue)).unsubscribe()
                    continue
                with pytest.raises(BusError, match="may not subscribe there"):
                    await bus.subscribe(pattern, ignore, queue=queue)


@dataclass(frozen=True)
class Victims:
    """Everybody whom a misdirected answer could reach, listening to all that they may hear."""

    heard: list[str]

    @classmethod
    async def listen(cls, server: NatsServer, stack: AsyncExitStack) -> "Victims":
        victims = cls([])

        async def hear(message: Message) -> None:
            victims.heard.append(message.subject)

        for role in ROLES:
            node = "n2" if role.account == "EDGE" else ""
            bus = await stack.enter_async_context(server.bus(role.name, node=node, pool=POOL))
            await bus.wait_connected(5)
            mine = role.rendered(node="n2", pool=POOL) if node else role
            for pattern in mine.subscribe:
                if not pattern.startswith(("req.", "_INBOX.", "cp.")):
                    await bus.subscribe(pattern, hear)
        return victims


@pytest.mark.parametrize("role", [role for role in ROLES if role.account == "EDGE"], ids=lambda role: role.name)
async def test_no_answer_can_be_aimed_at_others(server: NatsServer, role: Role) -> None:
    """A node names every foreign subject as the place of its answer: neither our check nor the server lets it out."""
    async with AsyncExitStack() as stack:
        victims = await Victims.listen(server, stack)
        registry = await stack.enter_async_context(server.bus("registry"))
        keyring = await stack.enter_async_context(server.bus("keyring"))
        attacker = await stack.enter_async_context(user(server, role))
        for bus in (registry, keyring, attacker):
            await bus.wait_connected(5)

        async def answer(_subject: str, _request: SnapshotRequest) -> SnapshotRefused:
            return SnapshotRefused(code="x", detail="")

        async def blindly(message: Message) -> None:
            if message.reply:
                await keyring.publish(message.reply, b"aimed")

        tally: Counter[str] = Counter()
        await serve(
            registry, "req.registry.*.*", SnapshotRequest, answer, queue="r", refuse=lambda _: "no", counts=tally
        )
        await keyring.subscribe("req.keyring.*.*", blindly, queue="keyring")
        for service, reply in aimed():
            # nats-server does not ask whether the sender may publish to the reply that it names.
            await attacker.publish(f"req.{service}.{NODE}", b"", reply=reply)
        await refusals(attacker)
        own_answer = await attacker.request(f"req.registry.snapshot.{NODE}", b"", timeout_s=5)
        await refusals(keyring)
        await asyncio.sleep(0.2)

    assert own_answer.data
    assert tally["answered"] == 1
    assert tally["bad_reply"] > 100
    assert keyring.counts["violations"] > 90
    # Its own spans go where the keyring may publish besides: an answer is none, and who reads spans drops it.
    assert {subject for subject in victims.heard if not subject.startswith("report.")} <= {"trace.service.keyring"}


async def test_no_ack_of_a_stream_can_be_aimed_at_others(server: NatsServer) -> None:
    """JetStream would send its ack to whatever subject of the control plane a node names as the place of its answer."""
    targets = [subject for _, subject in aimed() if not subject.startswith(("$", "_R_"))]
    async with AsyncExitStack() as stack:
        victims = await Victims.listen(server, stack)
        portal = await stack.enter_async_context(server.bus("portal"))
        attacker = await stack.enter_async_context(server.bus("gateway", node=NODE, pool=POOL))
        for bus in (portal, attacker):
            await bus.wait_connected(5)
        for target in targets:
            await attacker.publish(f"trace.node.{NODE}", b"", reply=target)
        assert await refusals(attacker) == 0
        async with asyncio.timeout(10):
            while (await portal.stream_state("NODE_TRACES")).messages < len(targets):  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.02)
        await refusals(portal)
        await asyncio.sleep(0.2)

    assert set(victims.heard) == {f"trace.node.{NODE}"}


def aimed() -> Iterator[tuple[str, str]]:
    others = {"reply.n2.x", "reply.n11.x", "reply.n1", "_INBOX.registry.x", "_INBOX.portal.x", "_INBOX.claims.x"}
    subjects = [*others, *(subject for subject in SUBJECTS if "{" not in subject)]
    for subject in subjects:
        if subject.startswith(f"reply.{NODE}."):
            continue
        yield "registry.snapshot", subject
        if not subject.startswith("reply."):
            yield "keyring.announce", subject  # who holds the keyring may answer any node: that one is checked above


async def test_a_refused_request_says_so_at_once(server: NatsServer) -> None:
    async with server.bus("gateway", node="gw-1") as gateway:
        await gateway.wait_connected(5)
        async with asyncio.timeout(2):
            with pytest.raises(BusError, match=r"\$JS\.API\.STREAM\.INFO\.FEED: this role may not publish there"):
                await gateway.request("$JS.API.STREAM.INFO.FEED", b"", timeout_s=30)


async def test_only_the_control_plane_reaches_jetstream(server: NatsServer) -> None:
    async with server.bus("registry") as registry, server.bus("keyring") as keyring:
        await registry.wait_connected(5)
        await keyring.wait_connected(5)
        await registry.stream_state("FEED")
        with pytest.raises(BusError, match="may not publish") as refusal:
            await keyring.stream_state("FEED")
        assert not isinstance(refusal.value, BusTimeoutError)


def test_the_table_in_the_documentation_is_the_one_that_is_enforced() -> None:
    page = ROOT / "docs/security.md"
    text = page.read_text()
    assert BEGIN in text, f"{page}: has no table; put the output of `python -m kakuremichi.bus.permission_table` there"
    table = text[text.index(BEGIN) : text.index(END) + len(END)] + "\n"
    assert table == permission_table()


def test_every_role_is_limited_in_both_directions() -> None:
    for role in ROLES:
        for subjects in (role.publish, role.subscribe):
            assert subjects, f"{role.name}: an empty list would allow everything"
        assert not {">", "*"} & {*role.publish, *role.subscribe}
