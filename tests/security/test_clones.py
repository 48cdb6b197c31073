"""Two holders of one identity: whichever announces second is noticed, and nothing that is applied changes."""

import asyncio
import copy

import msgspec
import pytest
from nacl.signing import SigningKey

from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import PrivateKey, PublicKey, key_text
from kakuremichi.wire import signing, subjects
from kakuremichi.wire.codec import decode, decode_any, encode
from kakuremichi.wire.commands import (
    ListEvents,
    ListNodes,
    Problem,
    ReleaseNode,
    RotateNode,
    Written,
)
from kakuremichi.wire.facts import NodeQuarantined
from kakuremichi.wire.identity import NO_HASH, Announcement
from kakuremichi.wire.key_requests import AcceptKey, AcceptKeyAfter
from kakuremichi.wire.requests import KeyAccepted, KeyRefused
from kakuremichi.wire.signing import Signed, digest_of
from kakuremichi_registry.clones import follows
from support.feedmaker import DEPLOYMENT
from support.people import Person
from support.real_registry import Enrollee, World, http

SITE = Person("site-a")
OURS = signing.verify_key(SITE.identity)


def said(previous: bytes, epoch: int, *, signer: SigningKey = SITE.identity) -> Signed:
    body = Announcement(
        node_id=SITE.node_id, serial=1, public_key=SITE.public_key, epoch=epoch, boot_id=bytes(16), endpoints=(),
        previous=previous,
    )  # fmt: skip
    return signing.sign(signing.ANNOUNCEMENT, DEPLOYMENT, encode(body), signer)


class TestFollows:
    def links(self, newest: Signed, *before: Signed) -> tuple[bytes, ...]:
        return follows(decode(newest.body, Announcement), before, DEPLOYMENT, OURS)

    def test_an_announcement_follows_the_one_it_names(self) -> None:
        first = said(NO_HASH, 1)

        assert self.links(said(digest_of(first), 2)) == (digest_of(first),)

    def test_those_made_in_vain_lead_on_to_the_ones_before_them(self) -> None:
        first = said(NO_HASH, 1)
        lost = said(digest_of(first), 2)

        assert self.links(said(digest_of(lost), 3), lost, first) == (digest_of(lost), digest_of(first), NO_HASH)

    def test_a_link_that_is_not_the_next_ends_the_chain(self) -> None:
        first, stranger = said(NO_HASH, 1), said(b"x" * 32, 7)
        lost = said(digest_of(first), 2)

        assert self.links(said(digest_of(lost), 3), stranger, lost) == (digest_of(lost),)

    def test_a_link_that_the_node_did_not_sign_ends_the_chain(self) -> None:
        forged = said(b"x" * 32, 2, signer=SigningKey(b"f" * 32))

        assert self.links(said(digest_of(forged), 3), forged) == (digest_of(forged),)


async def announce(world: World, signed: Signed, *before: Signed) -> KeyAccepted | KeyRefused:
    request = AcceptKeyAfter(announcement=signed, before=before) if before else AcceptKey(announcement=signed)
    reply = await world.portal.request(subjects.KEY, encode(request), timeout_s=10)
    answer: KeyAccepted | KeyRefused = decode_any(reply.data, KeyAccepted | KeyRefused, name="answer")
    return answer


async def state_of(world: World, name: str) -> str:
    listed = await world.ask(ListNodes(actor="admin", role="agent", node_id=name))
    return "".join(view.state for view in listed.items)  # type: ignore[union-attr]


async def facts(world: World) -> list[NodeQuarantined]:
    events = await world.ask(ListEvents(actor="admin", limit=200))
    named = [event.fact for event in events.items if event.topic == "node-quarantined"]  # type: ignore[union-attr]
    return [msgspec.json.decode(fact, type=NodeQuarantined) for fact in named]


def fresh() -> PublicKey:
    return PrivateKey.generate().public()


def copied(node: Enrollee) -> Enrollee:
    """The same disk on another machine."""
    twin = copy.copy(node)
    twin.boot_id = b"c" * 16
    return twin


def is_quarantined(answer: KeyAccepted | KeyRefused) -> bool:
    return isinstance(answer, KeyRefused) and answer.code == "quarantined"


@pytest.fixture
async def agent(registry_world: World) -> Enrollee:
    enrolled = await registry_world.enrol("site-a")
    assert isinstance(await announce(registry_world, enrolled.announcement()), KeyAccepted)
    return enrolled


async def test_the_second_to_announce_after_a_copy_is_noticed_and_both_boots_are_named(
    registry_world: World, agent: Enrollee
) -> None:
    world, twin = registry_world, copied(agent)
    key = fresh()
    assert isinstance(await announce(world, twin.announcement(key=key)), KeyAccepted)

    assert is_quarantined(await announce(world, agent.announcement(key=fresh())))

    assert await state_of(world, "site-a") == "quarantined"
    (fact,) = await facts(world)
    assert (fact.boot_id, fact.said_boot_id) == ((b"c" * 16).hex(), (b"b" * 16).hex())
    assert fact.public_key == key_text(key)
    listed = await world.ask(ListNodes(actor="admin", role="agent", node_id=agent.node_id))
    assert listed.items[0].public_key == key_text(key)  # type: ignore[union-attr]  # what was applied stays


async def test_one_epoch_with_two_keys_is_two_holders(registry_world: World, agent: Enrollee) -> None:
    twin = copied(agent)
    await announce(registry_world, agent.announcement(epoch=agent.epoch + 5, key=fresh()))

    assert is_quarantined(await announce(registry_world, twin.announcement(epoch=agent.epoch, key=fresh())))


async def test_both_are_refused_until_somebody_releases_it(registry_world: World, agent: Enrollee) -> None:
    world, twin = registry_world, copied(agent)
    await announce(world, twin.announcement(key=fresh()))
    ours = agent.announcement(key=fresh())
    await announce(world, ours)

    assert is_quarantined(await announce(world, ours))
    assert is_quarantined(await announce(world, twin.announcement(key=fresh())))
    assert len(await facts(world)) == 1
    release = ReleaseNode(actor="admin", node_id=agent.node_id, role="agent")
    assert isinstance(await world.ask(release), Written)
    assert isinstance(await announce(world, ours), KeyAccepted)
    again = await world.ask(release)
    assert isinstance(again, Problem)
    assert again.code == "not-quarantined"
    assert is_quarantined(await announce(world, twin.announcement(key=fresh())))  # the copy was not ended


async def test_nothing_new_is_led_to_it_and_what_is_led_there_stays(registry_world: World, agent: Enrollee) -> None:
    world, twin = registry_world, copied(agent)
    assert isinstance(await world.ask(http("wiki")), Written)
    await announce(world, twin.announcement(key=fresh()))
    await announce(world, agent.announcement(key=fresh()))

    refused = await world.ask(http("blog"))
    assert isinstance(refused, Problem)
    assert (refused.code, refused.holders) == ("quarantined", ("site-a",))
    assert isinstance(await world.ask(http("wiki", host="other.example.com")), Written)
    rotation = await world.ask(RotateNode(actor="admin", node_id=agent.node_id, role="agent"))
    assert isinstance(rotation, Problem)
    assert rotation.code == "quarantined"


async def test_a_node_that_rebooted_often_unheard_is_no_clone(registry_world: World, agent: Enrollee) -> None:
    made = [agent.announcement(key=fresh()) for _ in range(4)]

    newest, *before = reversed(made)
    assert isinstance(await announce(registry_world, newest, *before), KeyAccepted)


async def test_a_node_whose_acceptance_was_lost_is_no_clone(registry_world: World, agent: Enrollee) -> None:
    unheard = agent.announcement(key=fresh())
    await announce(registry_world, unheard)

    assert isinstance(await announce(registry_world, unheard), KeyAccepted)
    assert isinstance(await announce(registry_world, agent.announcement(key=fresh()), unheard), KeyAccepted)


async def test_a_disk_that_forgot_its_announcements_looks_like_a_clone(registry_world: World, agent: Enrollee) -> None:
    """A node that lost its whole state has no identity either and enrols anew; half a state is a person's matter."""
    agent.previous = NO_HASH

    assert is_quarantined(await announce(registry_world, agent.announcement(key=fresh())))


async def test_many_conflicts_at_once_are_one_event(registry_world: World, agent: Enrollee) -> None:
    twin = copied(agent)
    await announce(registry_world, twin.announcement(key=fresh()))
    conflicting = []
    for _ in range(8):
        agent.previous = b"o" * 32
        conflicting.append(agent.announcement(key=fresh()))

    answers = await asyncio.gather(*(announce(registry_world, signed) for signed in conflicting))

    assert all(is_quarantined(answer) for answer in answers)
    assert len(await facts(registry_world)) == 1


async def test_an_unknown_node_is_neither_released_nor_rotated(registry_world: World) -> None:
    for make in (ReleaseNode, RotateNode):
        answer = await registry_world.ask(make(actor="admin", node_id=NodeId("nobody"), role="agent"))
        assert isinstance(answer, Problem)
        assert answer.code == "unknown-node"
