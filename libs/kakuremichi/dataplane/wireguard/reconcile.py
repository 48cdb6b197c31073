"""Make one WireGuard interface have its desired peers: read, compare, check, write."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace

from kakuremichi.dataplane.wireguard.claims import Claims, refusal
from kakuremichi.dataplane.wireguard.desired import Peer, Peers
from kakuremichi.dataplane.wireguard.device import Device, Outcome
from kakuremichi.dataplane.wireguard.diff import PeerState, RemovePeer, SetPeer, settled, steps_between
from kakuremichi.model.addresses import Endpoint
from kakuremichi.model.keys import PublicKey

# Peers handled before the loop gets a turn. Checking a new key costs about 0.1 ms, a comparison a tenth of it.
_CHECKED, _COMPARED = 100, 1000


class PeerReconciler:
    """The peers of one device. Remembers whose allowed IPs are whose and which endpoints it set; callers take turns."""

    def __init__(self, device: Device, clock: Callable[[], float] = time.time) -> None:
        self._device = device
        self._clock = clock
        self._claims = Claims()
        self._endpoints: dict[PublicKey, Endpoint] = {}
        self._turn = asyncio.Lock()

    async def reconcile(self, desired: Peers, revoked: AbstractSet[PublicKey]) -> tuple[Outcome, ...]:
        """Compare with all the engine has. One outcome per step or refused peer; empty when nothing differed.

        A refused peer stays in the engine as it was. Raises DeviceError when the engine does not answer.
        """
        async with self._turn:
            actual = await self._settled((await self._device.read()).peers, desired)
            self._claims = Claims()
            # Who has its allowed IPs already keeps them; between newcomers the smaller key does, everywhere alike.
            order = sorted(desired.keys() - revoked, key=lambda key: (not _same_ips(actual, desired[key]), key))
            refused = await self._check([desired[key] for key in order], actual.keys())
            return await self._apply(actual, desired, revoked, refused)

    async def change(
        self, before: Peers, after: Peers, revoked: AbstractSet[PublicKey] = frozenset()
    ) -> tuple[Outcome, ...]:
        """Only the peers concerned, as they were desired and as they are now: costs the same in a fleet of any size.

        A rotated key is in `before` under its old and in `after` under its new name. `revoked` holds what is newly
        revoked: each is removed, whether it was believed to be there or not. Nothing is read from the engine,
        so run `reconcile` once before, and again whenever an outcome has an error.
        """
        async with self._turn:
            for key in before.keys() | after.keys() | revoked:
                self._claims.release(key)
            refused = await self._check([after[key] for key in sorted(after.keys() - revoked)], before.keys())
            for key in refused.keys() & before.keys():
                self._claims.claim(before[key])  # it stays as it was, so what it has is still taken
            believed = {**before, **{key: Peer(key, frozenset()) for key in revoked}}
            return await self._apply(believed, after, revoked, refused)

    async def nudge(self, peers: Iterable[Peer]) -> tuple[Outcome, ...]:
        """Make the engine say something to each peer at once: a keepalive that is turned off and on again is sent.

        Unlike setting a peer anew this ends no session, so what the peer has under way still arrives.
        """
        steps = [
            SetPeer(replace(peer, endpoint=None, keepalive_s=seconds))
            for peer in peers
            if peer.keepalive_s
            for seconds in (0, peer.keepalive_s)
        ]
        async with self._turn:
            return await self._device.apply(steps)

    async def _settled(self, states: Mapping[PublicKey, PeerState], desired: Peers) -> Peers:
        actual: dict[PublicKey, Peer] = {}
        keys = list(states)
        for at in range(0, len(keys), _COMPARED):
            part = {key: states[key] for key in keys[at : at + _COMPARED]}
            actual |= settled(part, desired, self._endpoints, self._clock())
            await asyncio.sleep(0)
        return actual

    async def _check(self, peers: Iterable[Peer], known: AbstractSet[PublicKey]) -> dict[PublicKey, str]:
        """The sentences about those that may not be given to the engine; the others now hold their allowed IPs."""
        refused = {}
        for number, peer in enumerate(peers, 1):
            sentence = refusal(peer, known_key=peer.public_key in known) or self._claims.claim(peer)
            if sentence is not None:
                refused[peer.public_key] = sentence
            if number % _CHECKED == 0:
                await asyncio.sleep(0)
        return refused

    async def _apply(
        self, actual: Peers, desired: Peers, revoked: AbstractSet[PublicKey], refused: Mapping[PublicKey, str]
    ) -> tuple[Outcome, ...]:
        steps = steps_between(_without(actual, refused), _without(desired, refused), revoked)
        outcomes = await self._device.apply(steps) if steps else ()
        for outcome in outcomes:
            match outcome:
                case Outcome(SetPeer(Peer(key, _, endpoint)), None) if endpoint is not None:
                    self._endpoints[key] = endpoint
                case Outcome(RemovePeer(key), None):
                    self._endpoints.pop(key, None)
        return (*outcomes, *(Outcome(SetPeer(desired[key]), sentence) for key, sentence in refused.items()))


def _without(peers: Peers, refused: Mapping[PublicKey, str]) -> Peers:
    return {key: peer for key, peer in peers.items() if key not in refused} if refused else peers


def _same_ips(actual: Peers, wanted: Peer) -> bool:
    held = actual.get(wanted.public_key)
    return held is not None and held.allowed_ips == wanted.allowed_ips
