"""Which peer holds which allowed IPs, and what may not be given to the engine at all. Pure.

An engine takes an allowed IP away from its holder without a word when another peer claims it, and a longer prefix
inside it diverts part of the traffic. So every claim is first checked against all others, whatever network it names.
"""

from bisect import bisect_left, insort
from ipaddress import IPv4Network, IPv6Network
from itertools import pairwise

from kakuremichi.dataplane.wireguard.desired import Peer
from kakuremichi.model.addresses import IPNetwork
from kakuremichi.model.keys import KeyRefusedError, PublicKey, check_public_key, key_text

_Span = tuple[int, int, int, PublicKey]  # family, first and last address, holder


class Claims:
    """Allowed IPs by holder, pairwise disjoint. A claim costs the logarithm of all of them."""

    def __init__(self) -> None:
        self._spans: list[_Span] = []
        self._held: dict[PublicKey, Peer] = {}

    def claim(self, peer: Peer) -> str | None:
        """Give the peer its allowed IPs in place of those it had; or the sentence why not, and nothing changes."""
        before = self._held.get(peer.public_key)
        if before is not None and before.allowed_ips == peer.allowed_ips:
            return None
        self.release(peer.public_key)
        for network in sorted(peer.allowed_ips, key=_first):
            conflict = self._overlapping(network)
            if conflict is not None:
                self._restore(before)
                return _conflict_sentence(peer.public_key, network, conflict)
        self._restore(peer)
        return None

    def release(self, key: PublicKey) -> None:
        peer = self._held.pop(key, None)
        for network in peer.allowed_ips if peer else ():
            del self._spans[bisect_left(self._spans, _span(network, key))]

    def _restore(self, peer: Peer | None) -> None:
        if peer is not None:
            self._held[peer.public_key] = peer
            for network in peer.allowed_ips:
                insort(self._spans, _span(network, peer.public_key))

    def _overlapping(self, network: IPNetwork) -> _Span | None:
        family, first, last, _ = _span(network, PublicKey(b""))
        place = bisect_left(self._spans, (family, first, -1, PublicKey(b"")))
        for span in self._spans[max(place - 1, 0) : place + 1]:
            if span[0] == family and span[1] <= last and first <= span[2]:
                return span
        return None


def refusal(peer: Peer, *, known_key: bool = False) -> str | None:
    """Why this peer may not be given to an engine, whatever the others are; None if it may.

    Checking a key is a scalar multiplication (0.1 ms); `known_key` says that it was done before.
    """
    try:
        if not known_key:
            check_public_key(peer.public_key)
    except KeyRefusedError as error:
        return f"peer {key_text(peer.public_key)}: {error}"
    if not 0 <= peer.keepalive_s < 65536:
        return f"peer {key_text(peer.public_key)}: keepalive of {peer.keepalive_s} s, 0 to 65535 are possible"
    return _inner_overlap(peer)


def _inner_overlap(peer: Peer) -> str | None:
    spans = sorted(_span(network, peer.public_key) for network in peer.allowed_ips)
    for one, other in pairwise(spans):
        if one[0] == other[0] and other[1] <= one[2]:
            return f"peer {key_text(peer.public_key)}: its allowed IP {_network(other)} lies inside {_network(one)}"
    return None


def _span(network: IPNetwork, holder: PublicKey) -> _Span:
    first = int(network.network_address)
    # Not broadcast_address, which builds an object of its own for each network.
    return (network.version, first, first + (1 << (network.max_prefixlen - network.prefixlen)) - 1, holder)


def _first(network: IPNetwork) -> tuple[int, int]:
    return (network.version, int(network.network_address))


def _network(span: _Span) -> IPNetwork:
    family, first, last, _ = span
    if family == 4:
        return IPv4Network((first, 32 - (last - first).bit_length()))
    return IPv6Network((first, 128 - (last - first).bit_length()))


def _conflict_sentence(claimant: PublicKey, network: IPNetwork, held: _Span) -> str:
    taken = _network(held)
    return f"peer {key_text(claimant)}: allowed IP {network} overlaps {taken}, which peer {key_text(held[3])} holds"
