"""Revoked is revoked: off the bus, gone at every peer, refused whenever it comes back. Each cut alone."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kakuremichi.bus.memory import MemoryNats
from kakuremichi.bus.server import NatsServer, running_server
from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import key_text
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import decode_any, encode
from kakuremichi.wire.commands import (
    CreateToken,
    Enrolled,
    ListEvents,
    ListNodes,
    ListServices,
    Problem,
    RemoveNode,
    RenewAccess,
    RevokeNode,
    Written,
)
from kakuremichi.wire.identity import Role
from kakuremichi.wire.key_requests import AcceptKey
from kakuremichi.wire.records import Gone, Revocation, Route, decode_record
from kakuremichi.wire.renewal import request_to_renew
from kakuremichi.wire.requests import KeyAccepted, KeyRefused, Renew, RenewalRefused, Renewed
from kakuremichi.wire.signing import DeploymentId
from kakuremichi_registry.trust import Trust
from support.bus_clients import refused_with, shown_by
from support.real_registry import POOL, Enrollee, World, http, redeem, world


def revocation(name: str, role: Role = "agent") -> RevokeNode:
    return RevokeNode(actor="admin", node_id=NodeId(name), role=role)


async def announce(world: World, node: Enrollee) -> KeyAccepted | KeyRefused:
    keyring = await world.portal.request(subjects.KEY, encode(AcceptKey(announcement=node.announcement())), timeout_s=5)
    answer: KeyAccepted | KeyRefused = decode_any(keyring.data, KeyAccepted | KeyRefused, name="answer")
    return answer


async def refusal(world: World, command: object) -> str:
    answer = await world.ask(command)  # type: ignore[arg-type]
    assert isinstance(answer, Problem), answer
    return answer.code


async def state_of(world: World, name: str, role: Role = "agent") -> str:
    listed = await world.ask(ListNodes(actor="admin", role=role, node_id=name))
    return "".join(view.state for view in listed.items)  # type: ignore[union-attr]


async def test_peers_are_told_to_cut_before_they_are_told_to_tidy_up(registry_world: World) -> None:
    world = registry_world
    await world.enrol("gw1", "gateway")
    agent = await world.enrol("site-a")
    await announce(world, agent)
    await world.ask(http("wiki"))

    written = await world.ask(revocation("site-a"))

    assert isinstance(written, Written)
    (position,) = [position for position in written.positions if position.feed == f"feed.pool.{POOL}"]
    assert position.nodes == ("gw1",)
    rows = await world.database.fetch(
        "select body from feed_item where feed = $1 order by feed_seq desc limit 3", position.feed
    )
    route, gone, first = (decode_record(_record(row["body"])) for row in rows)
    assert first == Revocation(node_id=agent.node_id, epoch=agent.epoch)
    assert gone == Gone(kind="agent-peer", key="site-a")
    assert isinstance(route, Route)
    assert route.targets == ()
    services = await world.ask(ListServices(actor="admin"))
    assert [view.state for view in services.items] == ["no-target"]  # type: ignore[union-attr]


def _record(body: bytes) -> bytes:
    import msgspec  # noqa: PLC0415

    return bytes(msgspec.msgpack.decode(body, type=list[msgspec.Raw])[4])


async def test_a_revoked_node_stays_in_sight_until_it_is_removed(registry_world: World) -> None:
    world = registry_world
    agent = await world.enrol("site-a")
    await announce(world, agent)
    await world.ask(revocation("site-a"))

    assert await state_of(world, "site-a") == "revoked"
    assert await refusal(world, revocation("site-a")) == "revoked"
    removal = RemoveNode(actor="admin", node_id=agent.node_id, role="agent")
    assert isinstance(await world.ask(removal), Written)
    assert await state_of(world, "site-a") == ""
    assert await refusal(world, removal) == "unknown-node"
    events = await world.ask(ListEvents(actor="admin", newest_first=True, limit=2))
    assert [event.topic for event in events.items] == ["node-removed", "node-revoked"]  # type: ignore[union-attr]
    assert key_text(agent.certificate.identity_key) in events.items[1].fact  # type: ignore[union-attr]


async def test_neither_its_name_nor_its_identity_can_enrol(registry_world: World) -> None:
    world = registry_world
    kept_token = await world.token("site-a")
    agent = await world.enrol("site-a")
    other_token = await world.token("site-b")
    await world.ask(revocation("site-a"))

    fresh = (await world.enrol("site-c")).identity
    assert await refusal(world, redeem(kept_token, fresh)) == "revoked"
    assert await refusal(world, redeem(other_token, agent.identity)) == "identity-taken"
    token = CreateToken(actor="admin", role="agent", node_id=agent.node_id, pool=POOL, secret_hash=bytes(32))
    assert await refusal(world, token) == "revoked"

    await world.ask(RemoveNode(actor="admin", node_id=agent.node_id, role="agent"))
    again = await world.enrol("site-a")
    assert again.certificate.serial == 2
    assert isinstance(await announce(world, again), KeyAccepted)  # its chain begins anew
    assert await refusal(world, redeem(other_token, agent.identity)) == "identity-taken"  # never again, by any name


async def test_it_gets_no_credentials_and_no_key_is_taken_from_it(registry_world: World, nats: MemoryNats) -> None:
    world = registry_world
    agent = await world.enrol("site-a")
    assert isinstance(await renewed_on_the_bus(nats, agent), Renewed)
    await world.ask(revocation("site-a"))

    assert isinstance(await renewed_on_the_bus(nats, agent), RenewalRefused)
    request = request_to_renew(
        DeploymentId(agent.enrolled.deployment), agent.node_id, agent.certificate.serial, agent.identity
    )
    over_http = RenewAccess(actor="node", renewal=request.renewal, source="198.51.100.7")
    assert await refusal(world, over_http) == "renewal-refused"
    answer = await announce(world, agent)
    assert isinstance(answer, KeyRefused)
    assert answer.code == "unknown-node"


async def renewed_on_the_bus(nats: MemoryNats, node: Enrollee) -> Renewed | RenewalRefused:
    bus = nats.connect(f"reply.{node.node_id}")
    reply = await bus.request(subjects.renew(node.node_id), encode(Renew()), timeout_s=5)
    answer: Renewed | RenewalRefused = decode_any(reply.data, Renewed | RenewalRefused, name="answer")
    return answer


async def test_with_revocation_and_enrolment_at_one_moment_the_name_stays_revoked(registry_world: World) -> None:
    """Whoever is slower sees what the other wrote, whichever that is."""
    world = registry_world
    await world.enrol("site-a")
    tokens = [await world.token(f"site-{n}") for n in range(4)]
    identity = (await world.enrol("site-z")).identity

    answers = await asyncio.gather(
        world.ask(revocation("site-z")), *(world.ask(redeem(token, identity)) for token in tokens)
    )

    assert isinstance(answers[0], Written)
    assert not any(isinstance(answer, Enrolled) for answer in answers[1:])


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with running_server(tmp_path) as server:
        yield server


async def test_the_bus_disconnects_it_at_once_and_lets_it_in_no_more(
    server: NatsServer, dsn: str, trust: Trust
) -> None:
    async with (
        server.bus("registry") as registry,
        server.bus("portal") as portal,
        server.bus("claims") as claims,
        world(dsn, trust, registry, portal, claims_bus=claims, issuer=server.issuer) as made,
    ):
        agent, other = await made.enrol("site-a"), await made.enrol("site-b")
        async with (
            shown_by(server, agent.enrolled.bus_jwt, agent.identity, "site-a") as bus,
            shown_by(server, other.enrolled.bus_jwt, other.identity, "site-b") as bystander,
        ):
            for each in (bus, bystander, claims):
                await each.wait_connected(5)
            began = time.monotonic()
            await made.ask(revocation("site-a"))
            while bus.connected:
                assert time.monotonic() - began < 2
                await asyncio.sleep(0.005)
            await refused_with(bus, 2)
            assert (bystander.connected, bystander.generation) == (True, 1)
