"""The first handshake of a tunnel, sent again soon enough.

WireGuard sends it when an agent's peer is set. A gateway that does not know the agent's key at that moment drops it
in silence, and WireGuard tries again after five seconds: too long for the first visitor. A peer that is removed and
set anew tries at once.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet

import structlog

from kakuremichi.dataplane.wireguard.device import Device, DeviceError
from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import PublicKey
from kakuremichi.node.peering import PeerSection
from kakuremichi.reconcile.holding import Key
from kakuremichi.runtime.waiting import first_of

log = structlog.get_logger()

# After the last one WireGuard's own attempts go on. The first is longer than any round trip that visitors bear.
PAUSES_S = (0.3, 0.6, 1.2, 2.4)


class Greeter:
    """`redo` makes the worker look at these keys again, so that peers are set in one place only."""

    def __init__(
        self,
        device: Device,
        section: PeerSection,
        redo: Callable[[Iterable[Key]], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._now = now
        self._device, self._section, self._redo = device, section, redo
        # Of peers that may still be silent: how often each was tried, and since when a handshake counts.
        self._tries: dict[PublicKey, tuple[int, float]] = {}
        self._woken = asyncio.Event()
        section.on_set = self._begin

    async def greet_all(self) -> None:
        """Our own key is another one: every peer hears of us at once. What they have under way still arrives."""
        peers, since = list(self._section.given.values()), self._now()
        try:
            await self._section.peers.nudge(peers)
        except DeviceError as error:
            log.warning("peers not greeted", reason=str(error))
        self._begin({peer.public_key for peer in peers}, since)

    async def greet(self, nodes: AbstractSet[NodeId]) -> None:
        """Set these peers anew; sessions that they have with us end."""
        given = {node: peer for node, peer in self._section.given.items() if node in nodes}
        self._section.renew(given)
        self._redo((self._section.kind, str(node)) for node in given)
        self._begin({peer.public_key for peer in given.values()})

    def _begin(self, keys: AbstractSet[PublicKey], since: float = 0.0) -> None:
        """Watch these until they have a handshake that is newer than `since` (Unix seconds)."""
        self._tries |= dict.fromkeys(keys, (0, since))
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await first_of(self._woken, stop)
            self._woken.clear()
            while self._tries and not stop.is_set():
                await first_of(stop, timeout_s=PAUSES_S[min(self._tries.values())[0]])
                await self._try_again()

    async def _try_again(self) -> None:
        young = dict(self._tries)
        silent = await self._silent({key: since for key, (_, since) in young.items()})
        for key, (tries, since) in young.items():
            if key in silent.values() and tries + 1 < len(PAUSES_S):
                self._tries[key] = tries + 1, since
            else:
                del self._tries[key]
        if silent:
            log.info("no handshake yet, trying anew", peers=sorted(silent))
            self._section.renew(silent)
            self._redo((self._section.kind, str(node)) for node in silent)

    async def _silent(self, keys: Mapping[PublicKey, float]) -> dict[NodeId, PublicKey]:
        """Of these peers, those without a handshake since the given moment.

        An engine that does not answer is the worker's matter.
        """
        try:
            states = (await self._device.read()).peers
        except DeviceError:
            return {}
        return {
            node: peer.public_key
            for node, peer in self._section.given.items()
            if peer.public_key in keys
            and (state := states.get(peer.public_key)) is not None
            and (state.last_handshake is None or state.last_handshake < keys[peer.public_key])
        }
