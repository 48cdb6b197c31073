"""A first handshake that nobody answered is sent again soon, a few times, and never for a peer that has spoken."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network

import pytest

from kakuremichi.dataplane.wireguard.desired import Peer
from kakuremichi.dataplane.wireguard.device import DeviceState, Outcome
from kakuremichi.dataplane.wireguard.diff import PeerState, RemovePeer, SetPeer, Step
from kakuremichi.dataplane.wireguard.reconcile import PeerReconciler
from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import PrivateKey, PublicKey
from kakuremichi.node import greeting
from kakuremichi.node.greeting import Greeter
from kakuremichi.node.peering import PeerSection
from kakuremichi.reconcile.holding import Key

GW1, GW2 = NodeId("gw1"), NodeId("gw2")


class Engine:
    """Its peers answer from the n-th time on that they are set; 0 never."""

    name = "wg0"

    def __init__(self, answers_at: dict[PublicKey, int]) -> None:
        self._answers_at = answers_at
        self._peers: dict[PublicKey, Peer] = {}
        self.set_times: dict[PublicKey, int] = {}
        self.steps: list[Step] = []

    async def read(self) -> DeviceState:
        return DeviceState(None, 0, {key: PeerState(peer, self._handshake(key)) for key, peer in self._peers.items()})

    async def has_key(self, public_key: PublicKey) -> bool:
        return False

    async def configure(self, private_key: PrivateKey, listen_port: int | None) -> None:
        """Nothing depends on it."""

    async def apply(self, steps: Sequence[Step]) -> tuple[Outcome, ...]:
        for step in steps:
            self.steps.append(step)
            match step:
                case SetPeer(peer):
                    if peer.public_key not in self._peers:  # only a new peer makes the engine begin at once
                        self.set_times[peer.public_key] = self.set_times.get(peer.public_key, 0) + 1
                    self._peers[peer.public_key] = peer
                case RemovePeer(key):
                    self._peers.pop(key, None)
        return tuple(Outcome(step) for step in steps)

    def close(self) -> None:
        """Nothing is held."""

    def _handshake(self, key: PublicKey) -> float | None:
        wanted = self._answers_at[key]
        return 1.0 if wanted and self.set_times[key] >= wanted else None


def peer(number: int) -> Peer:
    return Peer(PrivateKey(bytes([number]) * 32).public(), frozenset({ip_network(f"10.0.0.{number}/32")}))


PEERS = {GW1: peer(1), GW2: peer(2)}
KEYS = {node: each.public_key for node, each in PEERS.items()}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "PAUSES_S", (0.01, 0.01, 0.01, 0.01))


@asynccontextmanager
async def greeted(engine: Engine) -> AsyncIterator[PeerSection]:
    """A section with a greeter; the worker looks at a key again as soon as it is asked to."""
    section = PeerSection("gateway-peer", PeerReconciler(engine), PEERS.get)
    passes: set[asyncio.Task[object]] = set()

    def redo(keys: Iterable[Key]) -> None:
        passes.add(asyncio.ensure_future(section.bring([NodeId(name) for _, name in keys])))

    greeter, stop = Greeter(engine, section, redo), asyncio.Event()
    task = asyncio.create_task(greeter.run(stop))
    try:
        yield section
    finally:
        stop.set()
        await task
        await asyncio.gather(*passes)


async def test_a_peer_without_a_handshake_is_set_anew_until_it_has_one() -> None:
    engine = Engine({KEYS[GW1]: 1, KEYS[GW2]: 3})
    async with greeted(engine) as section:
        await section.bring([GW1, GW2])
        await asyncio.sleep(0.2)

    assert engine.set_times == {KEYS[GW1]: 1, KEYS[GW2]: 3}
    assert dict(section.given) == PEERS


async def test_a_peer_that_never_answers_is_left_to_wireguard_after_a_few_times() -> None:
    engine = Engine({KEYS[GW1]: 0})
    async with greeted(engine) as section:
        await section.bring([GW1])
        await asyncio.sleep(0.3)

    assert engine.set_times == {KEYS[GW1]: 1 + len(greeting.PAUSES_S)}


async def test_a_peer_that_was_found_in_place_is_not_touched() -> None:
    engine = Engine({KEYS[GW1]: 0})
    await engine.apply([SetPeer(PEERS[GW1])])
    async with greeted(engine) as section:
        await section.whole([GW1])
        await asyncio.sleep(0.1)

    assert engine.steps == [SetPeer(PEERS[GW1])]


async def test_a_peer_that_went_meanwhile_is_not_set_again() -> None:
    engine, wanted = Engine({KEYS[GW1]: 0}), dict(PEERS)
    section = PeerSection("gateway-peer", PeerReconciler(engine), wanted.get)
    await section.bring([GW1])
    section.renew([GW1])
    del wanted[GW1]

    await section.bring([GW1])
    await section.take([GW1])

    assert (await engine.read()).peers == {}
    assert dict(section.given) == {}


class Changed(Engine):
    """Our key has changed: each peer answers from the n-th word on, a keepalive that begins or a peer set anew."""

    def __init__(self, words: int) -> None:
        super().__init__({})
        self._words, self.words = words, 0

    async def apply(self, steps: Sequence[Step]) -> tuple[Outcome, ...]:
        for step in steps:
            if isinstance(step, SetPeer):
                before = self._peers.get(step.peer.public_key)
                self.words += bool(step.peer.keepalive_s) and not (before and before.keepalive_s)
            await super().apply([step])
        return tuple(Outcome(step) for step in steps)

    def _handshake(self, key: PublicKey) -> float | None:
        return 1000.0 if self.words >= 1 + self._words else 900.0  # at 900 with our former key


@pytest.mark.parametrize(("words", "removals"), [(1, 0), (2, 1), (3, 2)])
async def test_peers_hear_of_a_new_key_of_ours_without_losing_what_they_have_under_way(
    words: int, removals: int
) -> None:
    speaking = replace(PEERS[GW1], keepalive_s=25)
    engine = Changed(words)
    section = PeerSection("gateway-peer", PeerReconciler(engine), {GW1: speaking}.get)
    await section.bring([GW1])
    passes: set[asyncio.Task[object]] = set()

    def redo(keys: Iterable[Key]) -> None:
        passes.add(asyncio.ensure_future(section.bring([NodeId(name) for _, name in keys])))

    greeter, stop = Greeter(engine, section, redo, now=lambda: 950.0), asyncio.Event()
    task = asyncio.create_task(greeter.run(stop))
    await greeter.greet_all()
    await asyncio.sleep(0.2)
    stop.set()
    await task
    await asyncio.gather(*passes)

    assert sum(isinstance(step, RemovePeer) for step in engine.steps) == removals
    assert dict(section.given) == {GW1: speaking}
    assert (await engine.read()).peers[speaking.public_key].peer.keepalive_s == 25
