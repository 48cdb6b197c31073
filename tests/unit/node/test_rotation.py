"""A node's new key: announced before it is served, never two at once, and only from one that stands."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kakuremichi.dataplane.wireguard.device import DeviceError
from kakuremichi.dataplane.wireguard.memory import MemoryDevice
from kakuremichi.model.keys import PrivateKey, PublicKey
from kakuremichi.node.announcing import make_announcement
from kakuremichi.node.rotation import Rotator, made_at
from kakuremichi.node.state import Enrolment, NodeState
from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.enrolment import BusAccess, EnrolmentAnswer
from kakuremichi.wire.identity import Announcement
from kakuremichi.wire.records import Gone, Rotate
from kakuremichi.wire.requests import MOST_BEFORE
from kakuremichi.wire.signing import TRUST_SET, digest_of, sign
from support.feedmaker import DEPLOYMENT, TRUST, TRUST_KEY, feed_key_certificate
from support.people import Person

DAY_S = 86400.0
NOW_S = 1_800_000_000.0


class SlowDevice(MemoryDevice):
    """It can be told to fail when it is given a key."""

    broken = False

    async def configure(self, private_key: PrivateKey, listen_port: int | None) -> None:
        if self.broken:
            raise DeviceError("interface memory: nobody answers")
        await super().configure(private_key, listen_port)


class Node:
    """A node whose first key is served and announced. `announced` counts how often it wanted to speak."""

    def __init__(self, directory: Path, role: str, *, every_s: float = 0.0) -> None:
        person = Person("n1", role=role, slot=1 if role == "gateway" else 0)  # type: ignore[arg-type]
        self.state = NodeState(directory)
        self.state.open()
        answer = EnrolmentAnswer(
            deployment=DEPLOYMENT,
            certificate=person.certificate(),
            trust=sign(TRUST_SET, DEPLOYMENT, encode(TRUST), TRUST_KEY),
            feed_key=feed_key_certificate(),
            endpoints=(),
            bus=BusAccess(url="nats://127.0.0.1:4222", jwt="the-jwt"),
        )
        self.device, self.announced, self.served = SlowDevice(), 0, 0
        self.enrolment = Enrolment(answer)
        self.state.save_enrolment(self.enrolment)
        self.first = self.announce_key(PrivateKey.generate().public())
        self.now = NOW_S
        self.rotator = Rotator(
            self.device, self.state, self.enrolment, every_s, self._served, self._announce, lambda: self.now
        )

    def announce_key(self, key: PublicKey, now_s: float = NOW_S) -> Announcement:
        signed = make_announcement(
            self.enrolment, self.state.identity(), self.state.announcement(), key,
            boot_id=bytes(16), endpoints=(), now_ms=int(now_s * 1000),
        )  # fmt: skip
        self.state.save_announcement(signed)
        return self.newest

    @property
    def newest(self) -> Announcement:
        kept = self.state.announcement()
        assert kept is not None
        return kept[1]

    async def serves(self, said: Announcement) -> bool:
        return await self.device.has_key(said.public_key)

    def asked(self, request: str = "r1") -> Rotate:
        return Rotate(node_id=self.enrolment.node.node_id, request_id=request, public_key=self.newest.public_key)

    async def _served(self) -> None:
        self.served += 1

    def _announce(self) -> None:
        self.announced += 1


@asynccontextmanager
async def running(node: Node) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(node.rotator.run(stop))
    yield
    stop.set()
    await task


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110  # what is waited for tells nobody
            await asyncio.sleep(0)


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.mark.parametrize("role", ["agent", "gateway"])
async def test_a_new_key_is_served_when_it_was_accepted_and_the_port_stays(tmp_path: Path, role: str) -> None:
    node = Node(tmp_path, role)
    await node.device.configure(PrivateKey.generate(), 51820)
    async with running(node):
        await node.rotator.accepted(node.first)
        node.rotator.ask(node.asked())
        await until(lambda: node.announced == 1)
        pending = node.newest

        assert pending.public_key != node.first.public_key
        assert not await node.serves(pending)

        await node.rotator.accepted(pending)
        assert await node.serves(pending)
        assert (await node.device.read()).listen_port == 51820
        assert node.served == 1


@pytest.mark.parametrize(("role", "at_once"), [("gateway", True), ("agent", False)])
async def test_gateways_move_at_once_and_agents_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, *, at_once: bool
) -> None:
    monkeypatch.setattr("kakuremichi.node.rotation.SETTLE_S", 3600.0)
    node = Node(tmp_path, role)
    async with running(node):
        await node.rotator.accepted(node.first)
        node.rotator.ask(node.asked())
        await until(lambda: node.announced == 1)
        moving = asyncio.create_task(node.rotator.accepted(node.newest))
        await settle()
        assert moving.done() == at_once
        assert await node.serves(node.newest) == at_once
        moving.cancel()


async def test_who_asks_a_node_itself_hears_of_a_key_once_it_is_served(tmp_path: Path) -> None:
    node = Node(tmp_path, "gateway")
    async with running(node):
        await node.rotator.accepted(node.first)
        assert said(node) == node.first
        node.rotator.ask(node.asked())
        await until(lambda: node.announced == 1)
        node.announce_key(node.newest.public_key, NOW_S + DAY_S)  # said again while it is pending

        assert said(node) == node.first

        await node.rotator.accepted(node.newest)
        assert said(node) == node.newest


def said(node: Node) -> Announcement:
    return decode(node.rotator.exchange().announcement.body, Announcement)


async def test_a_node_that_nobody_has_heard_yet_keeps_its_key(tmp_path: Path) -> None:
    node = Node(tmp_path, "gateway")
    async with running(node):
        node.rotator.ask(node.asked())
        await settle()
        assert node.newest == node.first

        await node.rotator.accepted(node.first)
        await until(lambda: node.newest != node.first)


async def test_a_request_is_for_one_key_so_repeating_it_does_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path, "agent")
    async with running(node):
        await node.rotator.accepted(node.first)
        request = node.asked()
        node.rotator.ask(request)
        await until(lambda: node.announced == 1)
        await node.rotator.accepted(node.newest)
        after = node.newest
        for record in (None, Gone(kind="rotate", key="n1"), request):
            node.rotator.ask(record)
        await settle()
        assert node.newest == after


async def test_an_acceptance_that_was_lost_is_waited_for_with_the_same_announcement(tmp_path: Path) -> None:
    node = Node(tmp_path, "agent")
    async with running(node):
        await node.rotator.accepted(node.first)
        node.rotator.ask(node.asked())
        await until(lambda: node.announced == 1)
        pending = node.newest
        node.rotator.ask(node.asked("r2"))
        await node.rotator.accepted(node.first)
        await settle()

        assert node.newest == pending
        assert not await node.serves(pending)


async def test_an_engine_that_does_not_answer_gets_the_key_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kakuremichi.node.rotation.RETRY_S", 0.01)
    node = Node(tmp_path, "agent")
    node.device.broken = True
    async with running(node):
        await node.rotator.accepted(node.first)
        node.rotator.ask(node.asked())
        await until(lambda: node.announced == 1)
        await node.rotator.accepted(node.newest)
        assert not node.served

        node.device.broken = False
        await until(lambda: node.served == 1)
        assert await node.serves(node.newest)


async def test_the_schedule_counts_from_when_the_key_was_made(tmp_path: Path) -> None:
    node = Node(tmp_path, "gateway", every_s=30 * DAY_S)
    node.announce_key(node.first.public_key, NOW_S + 20 * DAY_S)  # said again, for another reason
    node.now = NOW_S + 26 * DAY_S
    async with running(node):
        await node.rotator.accepted(node.newest)
        await settle()
        assert node.newest.public_key == node.first.public_key

        node.now = NOW_S + 31 * DAY_S
        await node.rotator.accepted(node.newest)
        await until(lambda: node.newest.public_key != node.first.public_key)


def test_a_key_is_as_old_as_its_first_epoch(tmp_path: Path) -> None:
    node = Node(tmp_path, "agent")
    again = node.announce_key(node.first.public_key, NOW_S + 5)
    assert made_at((again, node.first)) == NOW_S
    other = node.announce_key(PrivateKey.generate().public(), NOW_S + 9)
    assert made_at((other, again, node.first)) == NOW_S + 9


def test_what_was_announced_before_is_kept_newest_first_and_leads_back(tmp_path: Path) -> None:
    node = Node(tmp_path, "agent")
    for number in range(12):
        node.announce_key(PrivateKey.generate().public(), NOW_S + number)

    before = node.state.before()
    assert len(before) == MOST_BEFORE
    assert digest_of(before[0]) == node.newest.previous
    node.state.save_announcement(before[0])  # as if the process had died between the two files
    assert before[0] not in node.state.before()
