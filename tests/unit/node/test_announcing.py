"""A node's announcement: its epochs only grow, and a refusal that names an epoch is answered above it."""

import asyncio
from pathlib import Path

import pytest

from kakuremichi.bus.memory import MemoryNats
from kakuremichi.bus.port import Message
from kakuremichi.model.keys import PrivateKey
from kakuremichi.node.announcing import Announcer, make_announcement, next_epoch
from kakuremichi.node.state import Enrolment, NodeState, StateError
from kakuremichi.wire import requests, subjects
from kakuremichi.wire.codec import decode, decode_any, encode
from kakuremichi.wire.enrolment import BusAccess, EnrolmentAnswer
from kakuremichi.wire.identity import NO_HASH, Announcement
from kakuremichi.wire.signing import TRUST_SET, sign
from support.feedmaker import DEPLOYMENT, TRUST, TRUST_KEY, feed_key_certificate
from support.people import Person

SITE = Person("site-a")


@pytest.fixture
def state(tmp_path: Path) -> NodeState:
    made = NodeState(tmp_path / "state")
    made.open()
    return made


@pytest.fixture
def enrolment() -> Enrolment:
    return Enrolment(
        EnrolmentAnswer(
            deployment=DEPLOYMENT,
            certificate=SITE.certificate(),
            trust=sign(TRUST_SET, DEPLOYMENT, encode(TRUST), TRUST_KEY),
            feed_key=feed_key_certificate(),
            endpoints=(),
            bus=BusAccess(url="nats://127.0.0.1:4222", jwt="the-jwt"),
        )
    )


def announced(state: NodeState, enrolment: Enrolment, now_ms: int = 1000) -> Announcement:
    kept = state.announcement()
    key = PrivateKey.generate().public()
    signed = make_announcement(enrolment, SITE.identity, kept, key, boot_id=bytes(16), endpoints=(), now_ms=now_ms)
    state.save_announcement(signed)
    return decode(signed.body, Announcement)


@pytest.mark.parametrize(("last", "now_ms", "expected"), [(0, 5000, 5000), (5000, 4000, 5001), (5000, 5000, 5001)])
def test_an_epoch_is_above_the_last_one_whatever_the_clock_says(last: int, now_ms: int, expected: int) -> None:
    assert next_epoch(last, now_ms) == expected


def test_each_announcement_names_the_one_before(state: NodeState, enrolment: Enrolment) -> None:
    first = announced(state, enrolment)
    second = announced(state, enrolment, now_ms=10)

    assert first.previous == NO_HASH
    assert second.previous != NO_HASH
    assert second.epoch == first.epoch + 1


def test_identity_and_enrolment_come_back_and_are_for_the_node_alone(state: NodeState, enrolment: Enrolment) -> None:
    identity = bytes(state.identity())
    state.save_enrolment(enrolment)

    assert bytes(state.identity()) == identity
    assert state.enrolment() == enrolment
    assert all(path.stat().st_mode & 0o077 == 0 for path in state.directory.iterdir())


def test_damaged_state_is_a_sentence_that_names_the_file(state: NodeState) -> None:
    (state.directory / "enrolment").write_bytes(b"junk")

    with pytest.raises(StateError, match=r"enrolment.*enrol the node anew"):
        state.enrolment()


def announcement_in(message: Message) -> Announcement:
    """A node that made keys in vain says those too."""
    request: requests.Announce | requests.AnnounceAfter = decode_any(
        message.data, requests.Announce | requests.AnnounceAfter, name="announce"
    )
    return decode(request.announcement.body, Announcement)


async def no_new_key() -> None:
    raise AssertionError("this key is good")


async def test_a_refused_epoch_is_exceeded_with_the_same_key(state: NodeState, enrolment: Enrolment) -> None:
    nats = MemoryNats()
    keyring, node = nats.connect("_INBOX.keyring"), nats.connect("reply.site-a")
    asked: list[Announcement] = []

    async def answer(message: Message) -> None:
        said = decode(decode(message.data, requests.AnnounceAfter).announcement.body, Announcement)
        asked.append(said)
        newer = said.epoch > 9_000_000_000_000
        reply: object = (
            requests.KeyAccepted(epoch=said.epoch)
            if newer
            else requests.KeyRefused(code="not-newer", detail="epoch: must exceed", epoch=9_000_000_000_000)
        )
        await keyring.publish(message.reply, encode(reply))

    await keyring.subscribe(subjects.ANNOUNCE, answer)
    first = announced(state, enrolment)
    sentences: asyncio.Queue[str] = asyncio.Queue()
    announcer = Announcer(node, state, enrolment, sentences.put_nowait, new_key=no_new_key)
    stop = asyncio.Event()
    task = asyncio.create_task(announcer.run(stop))
    async with asyncio.timeout(5):
        said = [await sentences.get(), await sentences.get()]
    stop.set()
    await task

    assert [said.public_key for said in asked] == [first.public_key] * 2
    assert announcer.accepted_epoch > 9_000_000_000_000
    assert said == ["key refused: epoch: must exceed", ""]
    await keyring.close()
    await node.close()


async def test_a_key_that_may_never_be_used_again_is_replaced(state: NodeState, enrolment: Enrolment) -> None:
    nats = MemoryNats()
    keyring, node = nats.connect("_INBOX.keyring"), nats.connect("reply.site-a")
    first, asked = announced(state, enrolment), []

    async def answer(message: Message) -> None:
        said = announcement_in(message)
        asked.append(said.public_key)
        held = said.public_key == first.public_key
        reply: object = (
            requests.KeyRefused(code="held", detail="public key: was replaced before")
            if held
            else requests.KeyAccepted(epoch=said.epoch)
        )
        await keyring.publish(message.reply, encode(reply))

    async def new_key() -> None:
        announced(state, enrolment)

    await keyring.subscribe(subjects.ANNOUNCE, answer)
    sentences: asyncio.Queue[str] = asyncio.Queue()
    announcer, stop = Announcer(node, state, enrolment, sentences.put_nowait, new_key=new_key), asyncio.Event()
    task = asyncio.create_task(announcer.run(stop))
    async with asyncio.timeout(5):
        assert [await sentences.get(), await sentences.get()] == ["key refused: public key: was replaced before", ""]
    stop.set()
    await task

    assert asked[0] == first.public_key
    assert asked[1] != first.public_key
    await keyring.close()
    await node.close()
