"""Which steps lead from one set of peers to another. Pure."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from kakuremichi.dataplane.wireguard.desired import Peer, Peers
from kakuremichi.model.addresses import Endpoint
from kakuremichi.model.keys import PublicKey

SESSION_S = 180.0
"""A session ends this long after its handshake (Reject-After-Time); an older one says nothing about the path."""


@dataclass(frozen=True, slots=True)
class RemovePeer:
    public_key: PublicKey


@dataclass(frozen=True, slots=True)
class SetPeer:
    """Add the peer or replace what is configured of it. `peer.endpoint` None leaves the endpoint as it is."""

    peer: Peer


Step = RemovePeer | SetPeer


@dataclass(frozen=True, slots=True)
class PeerState:
    """One peer as the engine has it: `peer.endpoint` is where it was last heard. `last_handshake` in Unix seconds."""

    peer: Peer
    last_handshake: float | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0


def steps_between(actual: Peers, desired: Peers, revoked: AbstractSet[PublicKey]) -> tuple[Step, ...]:
    """Revocations, then what differs, then removals of what is merely stale. A revoked key is never set again."""
    first = [RemovePeer(key) for key in sorted(actual.keys() & revoked)]
    wanted = {key: peer for key, peer in desired.items() if key not in revoked}
    changed = [_set(actual.get(key), wanted[key]) for key in sorted(wanted) if actual.get(key) != wanted[key]]
    # Stale peers go last: setting the key that replaces one moves the allowed IPs in one step of the engine, while
    # removing the old key first would leave a moment without either.
    stale = [RemovePeer(key) for key in sorted(actual.keys() - wanted.keys() - revoked)]
    return (*first, *changed, *stale)


def _set(current: Peer | None, wanted: Peer) -> SetPeer:
    """A step must not carry an endpoint that is no difference: it would pull a roamed peer back."""
    same_place = current is not None and current.endpoint == wanted.endpoint
    return SetPeer(replace(wanted, endpoint=None) if same_place else wanted)


def settled(
    states: Mapping[PublicKey, PeerState],
    desired: Peers,
    set_before: Mapping[PublicKey, Endpoint],
    now: float,
) -> Peers:
    """The engine's peers, with the desired endpoint wherever the one it has may stay.

    WireGuard follows a peer that roams, so its endpoint rightly differs from the announced one. It is a difference
    only if the engine has none, if the announced one has changed since we set it (`set_before`), or if the session is
    dead: then the announced address is the better guess. `now` in Unix seconds.
    """
    peers = {}
    for key, state in states.items():
        wanted = desired.get(key)
        stays = wanted is not None and _may_stay(state, wanted.endpoint, set_before.get(key), now)
        seen = replace(state.peer, endpoint=wanted.endpoint) if wanted and stays else state.peer
        # The very object where they are equal: comparing it again costs nothing then.
        peers[key] = wanted if wanted is not None and seen == wanted else seen
    return peers


def _may_stay(state: PeerState, wanted: Endpoint | None, set_before: Endpoint | None, now: float) -> bool:
    if wanted is None:
        return True
    if state.peer.endpoint is None or set_before not in (None, wanted):
        return False
    return state.last_handshake is not None and now - state.last_handshake < SESSION_S
