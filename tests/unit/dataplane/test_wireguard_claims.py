"""Allowed IPs are disjoint between peers; the index agrees with comparing everything with everything."""

from ipaddress import IPv4Network, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.dataplane.wireguard.claims import Claims, refusal
from kakuremichi.dataplane.wireguard.desired import Peer
from kakuremichi.model.addresses import IPNetwork
from kakuremichi.model.keys import PrivateKey, PublicKey

KEYS = [PublicKey(bytes([number]) * 32) for number in range(5)]


def v4(number: int, prefix: int) -> IPNetwork:
    return IPv4Network((number & -(1 << (32 - prefix)), prefix))


def v6(number: int, prefix: int) -> IPNetwork:
    return IPv6Network((number & -(1 << (128 - prefix)), prefix))


networks = st.builds(v4, st.integers(0, 63), st.integers(26, 32)) | st.builds(
    v6, st.integers(0, 63), st.integers(122, 128)
)
peers = st.builds(Peer, st.sampled_from(KEYS), st.frozensets(networks, max_size=3))
actions = st.lists(peers | st.sampled_from(KEYS), max_size=30)


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and (one.network_address in other or other.network_address in one)


def is_taken(held: dict[PublicKey, Peer], peer: Peer) -> bool:
    others = (other for key, other in held.items() if key != peer.public_key)
    return any(overlap(mine, its) for other in others for mine in peer.allowed_ips for its in other.allowed_ips)


def overlaps_itself(peer: Peer) -> bool:
    return any(overlap(one, other) for one in peer.allowed_ips for other in peer.allowed_ips if one != other)


@given(actions)
def test_a_claim_is_granted_exactly_if_nobody_else_overlaps(history: list[Peer | PublicKey]) -> None:
    claims, held = Claims(), dict[PublicKey, Peer]()
    for action in history:
        if not isinstance(action, Peer):
            claims.release(action)
            held.pop(action, None)
        elif not overlaps_itself(action):
            sentence = claims.claim(action)
            assert (sentence is not None) == is_taken(held, action)
            if sentence is None:
                held[action.public_key] = action


@given(st.frozensets(networks, max_size=5))
def test_a_peer_that_overlaps_itself_is_refused(allowed_ips: frozenset[IPNetwork]) -> None:
    peer = Peer(PrivateKey.generate().public(), allowed_ips)

    assert (refusal(peer) is not None) == overlaps_itself(peer)
