"""Announcements from the node's request through keyring and registry to the peer's feed."""

import asyncio

import pytest
from nacl.signing import SigningKey

from kakuremichi.bus.memory import MemoryNats
from kakuremichi.bus.serve import serve
from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import PrivateKey
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import decode, decode_any, encode
from kakuremichi.wire.commands import ListNodes, Nodes, RemoveNode, Written
from kakuremichi.wire.identity import Announcement
from kakuremichi.wire.records import AgentPeer, FeedItem, GatewayPeer, Gone, Revocation, decode_record
from kakuremichi.wire.requests import Announce, AnnounceAfter, AnyAnnounce, KeyAccepted, KeyRefused
from kakuremichi.wire.signing import Signed
from kakuremichi_keyring.handlers import Keyring
from kakuremichi_keyring.pin import TrustPin
from support.people import Person
from support.real_registry import POOL, Enrollee, World


@pytest.fixture
async def keyring(nats: MemoryNats) -> Keyring:
    made = Keyring(nats.connect("keyring"), TrustPin())
    bus = nats.connect("keyring")
    for _ in range(4):
        await serve(bus, subjects.ANNOUNCE, AnyAnnounce, made.answer, queue="keyring", refuse=Keyring.refuse)
    return made


async def announce(
    nats: MemoryNats, node: Enrollee, signed: Signed, *, before: tuple[Signed, ...] = ()
) -> KeyAccepted | KeyRefused:
    """`before`: what the node made in vain, newest first."""
    bus = nats.connect(subjects.reply_prefix(node.node_id))
    request = encode(AnnounceAfter(announcement=signed, before=before) if before else Announce(announcement=signed))
    answer = await bus.request(subjects.announce(node.node_id), request, timeout_s=5)
    decided: KeyAccepted | KeyRefused = decode_any(answer.data, KeyAccepted | KeyRefused, name="answer")
    return decided


async def records(world: World, feed: str) -> list[object]:
    rows = await world.database.fetch("select body from feed_item where feed = $1 order by feed_seq", feed)
    return [decode_record(bytes(decode(row["body"], FeedItem).record)) for row in rows]


async def test_a_key_reaches_the_other_side_of_the_pool(
    registry_world: World, nats: MemoryNats, keyring: Keyring
) -> None:
    gateway, agent = await registry_world.enrol("gw1", "gateway"), await registry_world.enrol("site-a")
    of_gateway, of_agent = gateway.announcement(), agent.announcement()
    assert isinstance(await announce(nats, gateway, of_gateway), KeyAccepted)
    assert isinstance(await announce(nats, agent, of_agent), KeyAccepted)

    assert await records(registry_world, subjects.pool_feed(POOL)) == [
        AgentPeer(node_id=NodeId("site-a"), certificate=agent.enrolled.certificate, announcement=of_agent)
    ]
    assert await records(registry_world, subjects.fleet_feed(POOL)) == [
        GatewayPeer(node_id=NodeId("gw1"), certificate=gateway.enrolled.certificate, announcement=of_gateway)
    ]
    verifier = registry_world.verifier()
    certificate, said = verifier.peer(agent.enrolled.certificate, of_agent, "agent", new=True)
    assert (certificate.subnet, said.public_key) == ("10.0.0.0/24", agent.private.public())
    listed = await registry_world.ask(ListNodes(actor="admin", role="gateway"))
    assert isinstance(listed, Nodes)
    assert (listed.items[0].epoch, listed.items[0].endpoints) == (gateway.epoch, ("192.0.2.1:51820",))


async def test_the_same_announcement_again_is_accepted_and_writes_nothing(
    registry_world: World, nats: MemoryNats, keyring: Keyring
) -> None:
    agent = await registry_world.enrol("site-a")
    signed = agent.announcement()
    answers = await asyncio.gather(*(announce(nats, agent, signed) for _ in range(6)))
    assert answers == [KeyAccepted(epoch=agent.epoch)] * 6
    assert len(await records(registry_world, subjects.pool_feed(POOL))) == 1


async def test_an_epoch_that_is_not_newer_is_told_the_one_to_exceed(
    registry_world: World, nats: MemoryNats, keyring: Keyring
) -> None:
    agent = await registry_world.enrol("site-a")
    assert isinstance(await announce(nats, agent, agent.announcement(epoch=1000)), KeyAccepted)
    other = PrivateKey.generate().public()
    stands = agent.previous
    for epoch in (999, 1):
        answer = await announce(nats, agent, agent.announcement(epoch=epoch, key=other))
        assert isinstance(answer, KeyRefused)
        assert (answer.code, answer.epoch) == ("not-newer", 1000)
    agent.previous = stands
    assert await announce(nats, agent, agent.announcement(epoch=1001, key=other)) == KeyAccepted(epoch=1001)


async def test_one_key_of_many_announced_at_once_is_the_newest_in_the_end(
    registry_world: World, nats: MemoryNats, keyring: Keyring
) -> None:
    agent = await registry_world.enrol("site-a")
    signed = [agent.announcement(epoch=epoch, key=PrivateKey.generate().public()) for epoch in range(1, 10)]
    await asyncio.gather(
        *(announce(nats, agent, signed[at], before=tuple(reversed(signed[:at]))) for at in reversed(range(9)))
    )
    row = await registry_world.database.fetch_one("select epoch, announcement from node where node_id = 'site-a'")
    assert row is not None
    assert (row["epoch"], row["announcement"]) == (9, encode(signed[-1]))
    epochs = [
        decode(record.announcement.body, Announcement).epoch
        for record in await records(registry_world, subjects.pool_feed(POOL))
        if isinstance(record, AgentPeer)
    ]
    assert epochs == sorted(epochs)


async def test_a_key_belongs_to_one_node_for_all_time(
    registry_world: World, nats: MemoryNats, keyring: Keyring
) -> None:
    first, second = await registry_world.enrol("site-a"), await registry_world.enrol("site-b")
    key = first.private.public()
    await announce(nats, first, first.announcement(epoch=10))
    held = await announce(nats, second, second.announcement(key=key))
    assert isinstance(held, KeyRefused)
    assert held.code == "held"
    await announce(nats, first, first.announcement(epoch=11, key=PrivateKey.generate().public()))
    old = await announce(nats, first, first.announcement(epoch=12, key=key))
    assert isinstance(old, KeyRefused), "not even by the node that had it before"
    await registry_world.ask(RemoveNode(actor="admin", node_id=NodeId("site-a"), role="agent"))
    still = await announce(nats, second, second.announcement(key=key))
    assert isinstance(still, KeyRefused)
    assert still.code == "held"


async def test_a_removed_node_is_revoked_and_gone_from_the_feed(
    registry_world: World, nats: MemoryNats, keyring: Keyring
) -> None:
    agent = await registry_world.enrol("site-a")
    await announce(nats, agent, agent.announcement(epoch=77))
    answer = await registry_world.ask(RemoveNode(actor="admin", node_id=NodeId("site-a"), role="agent"))
    assert isinstance(answer, Written)
    assert (await records(registry_world, subjects.pool_feed(POOL)))[1:] == [
        Revocation(node_id=NodeId("site-a"), epoch=77),
        Gone(kind="agent-peer", key="site-a"),
    ]
    refused = await announce(nats, agent, agent.announcement(epoch=78))
    assert isinstance(refused, KeyRefused)
    assert refused.code == "unknown-node"


async def test_a_node_enrolled_anew_replaces_its_old_certificate_in_the_keyring(
    registry_world: World, nats: MemoryNats, keyring: Keyring
) -> None:
    first = await registry_world.enrol("site-a")
    await announce(nats, first, first.announcement(epoch=5))
    await registry_world.ask(RemoveNode(actor="admin", node_id=NodeId("site-a"), role="agent"))
    again = await registry_world.enrol("site-a")
    low = await announce(nats, again, again.announcement(epoch=5))
    assert isinstance(low, KeyRefused)
    assert (low.code, low.epoch) == ("not-newer", 5), "epochs survive removal"
    assert isinstance(await announce(nats, again, again.announcement(epoch=6)), KeyAccepted)
    stolen = await announce(nats, first, first.announcement(epoch=7))
    assert isinstance(stolen, KeyRefused), "the old certificate is worth nothing"


async def test_an_announcement_signed_by_another_identity(
    registry_world: World, nats: MemoryNats, keyring: Keyring
) -> None:
    agent = await registry_world.enrol("site-a")
    agent.identity = SigningKey.generate()
    refused = await announce(nats, agent, agent.announcement())
    assert isinstance(refused, KeyRefused)
    assert refused.code == "bad-signature"


async def test_without_a_registry_the_keyring_says_so(keyring: Keyring, nats: MemoryNats) -> None:
    person = Person("site-a")
    node = NodeId("site-a")
    request = encode(Announce(announcement=person.announcement()))
    answer = await nats.connect("reply.site-a").request(subjects.announce(node), request, timeout_s=5)
    assert decode(answer.data, KeyRefused).code == "unavailable"
