"""The peers of a device end where they should, whatever was there and whatever fails on the way."""

import asyncio
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.dataplane.wireguard.desired import Peer, Peers
from kakuremichi.dataplane.wireguard.device import DeviceError, Outcome, apply_in_batches
from kakuremichi.dataplane.wireguard.diff import PeerState, RemovePeer, SetPeer, Step, settled, steps_between
from kakuremichi.dataplane.wireguard.memory import MemoryDevice
from kakuremichi.dataplane.wireguard.reconcile import PeerReconciler
from kakuremichi.model.addresses import Endpoint
from kakuremichi.model.keys import PrivateKey, PublicKey

KEYS = [PrivateKey.generate().public() for _ in range(7)]
OLD, NEW, OTHER = KEYS[:3]
HERE = Endpoint(IPv4Address("192.0.2.1"), 51820)
THERE = Endpoint(IPv4Address("192.0.2.2"), 51820)
NOW = 1_700_000_000.0


def place(number: int) -> IPv4Network:
    return IPv4Network(f"10.0.{number}.100/32")


def peer(key: PublicKey, *numbers: int, endpoint: Endpoint | None = None, keepalive_s: int = 0) -> Peer:
    return Peer(key, frozenset(place(number) for number in numbers), endpoint, keepalive_s)


def by_key(*peers: Peer) -> Peers:
    return {one.public_key: one for one in peers}


def peers_of(owners: dict[int, PublicKey]) -> Peers:
    return by_key(*(peer(key, *(n for n in owners if owners[n] == key)) for key in set(owners.values())))


def device_with(peers: Iterable[Peer], fail_at: Iterable[int] = ()) -> MemoryDevice:
    device = MemoryDevice()
    asyncio.run(device.apply([SetPeer(one) for one in peers]))
    device.applied.clear()
    device.fail_at = frozenset(fail_at)
    return device


def configured(device: MemoryDevice) -> Peers:
    return {key: state.peer for key, state in device.peers.items()}


states = st.dictionaries(st.integers(1, 9), st.sampled_from(KEYS[:4])).map(peers_of)
revocations = st.sets(st.sampled_from(KEYS[4:]))


@given(states, states, revocations, st.sets(st.integers(0, 6)))
def test_any_state_is_reached_after_failures(
    before: Peers, after: Peers, revoked: set[PublicKey], fail_at: set[int]
) -> None:
    device = device_with(before.values(), fail_at)
    reconciler = PeerReconciler(device)

    asyncio.run(reconciler.reconcile(after, revoked))
    device.fail_at = frozenset()
    asyncio.run(reconciler.reconcile(after, revoked))

    assert configured(device) == after
    assert asyncio.run(reconciler.reconcile(after, revoked)) == ()


@given(st.lists(states, min_size=1, max_size=5))
def test_single_changes_end_where_a_full_comparison_would(history: list[Peers]) -> None:
    device = device_with([])
    reconciler = PeerReconciler(device)

    for before, after in zip([{}, *history], history, strict=False):
        outcomes = asyncio.run(reconciler.change(before, after))
        assert all(outcome.error is None for outcome in outcomes)

    assert configured(device) == history[-1]
    assert asyncio.run(reconciler.reconcile(history[-1], frozenset())) == ()


def test_a_revoked_peer_is_gone_even_when_a_later_step_fails() -> None:
    device = device_with([peer(OLD, 1)], fail_at=[1])

    outcomes = asyncio.run(PeerReconciler(device).reconcile(by_key(peer(NEW, 2)), {OLD}))

    assert configured(device) == {}
    assert [outcome.error for outcome in outcomes] == [None, "interface memory: no buffer space available"]


def test_a_change_removes_a_revoked_key_that_nobody_believed_in() -> None:
    device = device_with([peer(OLD, 1)])

    outcomes = asyncio.run(PeerReconciler(device).change({}, by_key(peer(OLD, 1), peer(NEW, 2)), {OLD}))

    assert outcomes == (Outcome(RemovePeer(OLD)), Outcome(SetPeer(peer(NEW, 2))))
    assert configured(device) == by_key(peer(NEW, 2))


def test_steps_are_revocations_then_changes_then_removals() -> None:
    actual = by_key(peer(KEYS[0], 1), peer(KEYS[1], 2), peer(KEYS[2], 3))
    desired = by_key(peer(KEYS[2], 4), peer(KEYS[3], 1))

    steps = steps_between(actual, desired, {KEYS[1]})

    assert steps[0] == RemovePeer(KEYS[1])
    assert set(steps[1:3]) == {SetPeer(peer(KEYS[2], 4)), SetPeer(peer(KEYS[3], 1))}
    assert steps[3] == RemovePeer(KEYS[0])


class TestClaimsBetweenPeers:
    def test_the_second_claimant_is_refused_and_the_others_are_set(self) -> None:
        first, second = sorted([OLD, NEW])
        device = device_with([])
        desired = by_key(peer(first, 1), peer(second, 1, 2), peer(OTHER, 3))

        outcomes = asyncio.run(PeerReconciler(device).reconcile(desired, frozenset()))

        assert configured(device) == by_key(peer(first, 1), peer(OTHER, 3))
        errors = [outcome.error for outcome in outcomes if outcome.error]
        assert len(errors) == 1
        assert "allowed IP 10.0.1.100/32 overlaps 10.0.1.100/32, which peer" in errors[0]

    def test_who_has_it_already_keeps_it(self) -> None:
        first, second = sorted([OLD, NEW])
        device = device_with([peer(second, 1)])

        asyncio.run(PeerReconciler(device).reconcile(by_key(peer(first, 1), peer(second, 1)), frozenset()))

        assert configured(device) == by_key(peer(second, 1))

    def test_a_refused_peer_stays_as_it_was(self) -> None:
        device = device_with([peer(OLD, 1), peer(NEW, 2)])
        reconciler = PeerReconciler(device)
        asyncio.run(reconciler.reconcile(configured(device), frozenset()))

        full = asyncio.run(reconciler.reconcile(by_key(peer(OLD, 1), peer(NEW, 1)), frozenset()))
        assert [outcome.step for outcome in full if outcome.error] == [SetPeer(peer(NEW, 1))]
        assert configured(device) == by_key(peer(OLD, 1), peer(NEW, 2))

    def test_a_single_change_is_checked_against_all_peers(self) -> None:
        device = device_with([peer(OLD, 1), peer(NEW, 2)])
        reconciler = PeerReconciler(device)
        asyncio.run(reconciler.reconcile(configured(device), frozenset()))

        outcomes = asyncio.run(reconciler.change(by_key(peer(NEW, 2)), by_key(peer(NEW, 1))))
        assert [outcome.error is None for outcome in outcomes] == [False]
        assert configured(device) == by_key(peer(OLD, 1), peer(NEW, 2))

        refused_again = asyncio.run(reconciler.change({}, by_key(peer(OTHER, 2))))
        assert refused_again[0].error is not None

    def test_a_wider_network_is_an_overlap(self) -> None:
        wide = Peer(NEW, frozenset({ip_network("10.0.0.0/16")}))
        device = device_with([peer(OLD, 1)])

        outcomes = asyncio.run(PeerReconciler(device).reconcile(by_key(peer(OLD, 1), wide), frozenset()))

        assert outcomes[0].error is not None
        assert "10.0.0.0/16 overlaps 10.0.1.100/32" in outcomes[0].error

    @pytest.mark.parametrize(
        ("bad", "sentence"),
        [
            (Peer(PublicKey(bytes(32)), frozenset()), "all bytes are zero"),
            (Peer(PublicKey(b"\x01" + bytes(31)), frozenset()), "low order"),
            (peer(NEW, keepalive_s=70000), "keepalive of 70000 s, 0 to 65535"),
            (Peer(NEW, frozenset({ip_network("10.0.0.0/16"), place(1)})), "10.0.1.100/32 lies inside 10.0.0.0/16"),
        ],
    )
    def test_what_no_engine_may_be_given_is_refused(self, bad: Peer, sentence: str) -> None:
        device = device_with([])

        outcomes = asyncio.run(PeerReconciler(device).reconcile(by_key(bad, peer(OTHER, 5)), frozenset()))

        assert configured(device) == by_key(peer(OTHER, 5))
        assert [sentence in (outcome.error or "") for outcome in outcomes] == [False, True]


class TestEndpoints:
    def state(self, endpoint: Endpoint | None, age_s: float | None) -> dict[PublicKey, PeerState]:
        return {OLD: PeerState(peer(OLD, 1, endpoint=endpoint), None if age_s is None else NOW - age_s)}

    @pytest.mark.parametrize(
        ("actual", "age_s", "wanted", "set_before", "differs"),
        [
            (THERE, 5, None, None, False),  # learned, and nothing else is announced
            (None, None, HERE, None, True),  # it has none
            (HERE, None, HERE, None, False),
            (THERE, 5, HERE, HERE, False),  # it roamed, and is heard
            (THERE, 5, HERE, None, False),  # the same, found after our restart
            (THERE, 5, HERE, THERE, True),  # the announcement changed
            (THERE, 500, HERE, HERE, True),  # it roamed, and is not heard any more
            (THERE, None, HERE, None, True),  # never heard there
        ],
    )
    def test_an_endpoint_is_set_only_where_the_engine_cannot_know_better(
        self,
        actual: Endpoint | None,
        age_s: float | None,
        wanted: Endpoint | None,
        set_before: Endpoint | None,
        differs: bool,
    ) -> None:
        desired = by_key(peer(OLD, 1, endpoint=wanted))
        before = {OLD: set_before} if set_before else {}

        seen = settled(self.state(actual, age_s), desired, before, NOW)

        assert steps_between(seen, desired, frozenset()) == ((SetPeer(desired[OLD]),) if differs else ())

    def test_a_roamed_peer_is_not_pulled_back_by_another_change(self) -> None:
        device = device_with([])
        reconciler = PeerReconciler(device, clock=lambda: NOW)
        asyncio.run(reconciler.reconcile(by_key(peer(OLD, 1, endpoint=HERE)), frozenset()))
        device.hear(OLD, THERE, NOW - 5)

        asyncio.run(reconciler.reconcile(by_key(peer(OLD, 1, 2, endpoint=HERE)), frozenset()))
        asyncio.run(reconciler.change(by_key(peer(OLD, 1, 2, endpoint=HERE)), by_key(peer(OLD, 1, endpoint=HERE))))

        assert configured(device) == by_key(peer(OLD, 1, endpoint=THERE))

    def test_a_new_announcement_moves_it_once(self) -> None:
        device = device_with([])
        reconciler = PeerReconciler(device, clock=lambda: NOW)
        asyncio.run(reconciler.reconcile(by_key(peer(OLD, endpoint=HERE)), frozenset()))
        device.hear(OLD, THERE, NOW - 5)
        announced = Endpoint(THERE.address, 4000)

        asyncio.run(reconciler.reconcile(by_key(peer(OLD, endpoint=announced)), frozenset()))
        assert configured(device)[OLD].endpoint == announced
        device.hear(OLD, THERE, NOW - 1)

        assert asyncio.run(reconciler.reconcile(by_key(peer(OLD, endpoint=announced)), frozenset())) == ()


class TestBatches:
    async def test_a_refused_batch_is_sent_step_by_step(self) -> None:
        steps: list[Step] = [SetPeer(peer(key)) for key in KEYS[:5]]
        sent: list[list[Step]] = []

        async def send(batch: Iterable[Step]) -> None:
            sent.append(list(batch))
            if steps[1] in sent[-1]:
                raise DeviceError("interface wg0: invalid argument")

        outcomes = await apply_in_batches([steps[:3], steps[3:]], send)

        assert outcomes == tuple(
            Outcome(step, "interface wg0: invalid argument" if step is steps[1] else None) for step in steps
        )
        assert sent == [steps[:3], [steps[0]], [steps[1]], [steps[2]], steps[3:]]
