"""The first handshake of a tunnel, sent again soon enough.

WireGuard sends it when an agent's peer is set. A gateway that does not know the agent's key at that moment drops it
in silence, and WireGuard tries again after five seconds: too long for the first visitor. A peer that is removed and
set anew tries at once.
"""

import asyncio
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

import structlog

from kakuremichi.dataplane.wireguard.device import Device, DeviceError
from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import PublicKey
from kakuremichi.node.peering import PeerSection
from kakuremichi.reconcile.holding import Key

log = structlog.get_logger()

# After the last one WireGuard's own attempts go on. The first is longer than any round trip that visitors bear.
PAUSES_S = (0.3, 0.6, 1.2, 2.4)


class Greeter:
    """`redo` makes the worker look at these keys again, so that peers are set in one place only."""

    def __init__(self, device: Device, section: PeerSection, redo: Callable[[Iterable[Key]], None]) -> None:
        self._device, self._section, self._redo = device, section, redo
        self._tries: dict[PublicKey, int] = {}  # of peers that were set and may still be silent
        self._woken = asyncio.Event()
        section.on_set = self._begin

    def _begin(self, keys: AbstractSet[PublicKey]) -> None:
        self._tries |= dict.fromkeys(keys, 0)
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                woken = asyncio.create_task(self._woken.wait())
                await asyncio.wait({stopped, woken}, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
                self._woken.clear()
                while self._tries and not stop.is_set():
                    await asyncio.wait({stopped}, timeout=PAUSES_S[min(self._tries.values())])
                    await self._try_again()
        finally:
            stopped.cancel()

    async def _try_again(self) -> None:
        young = dict(self._tries)
        silent = await self._silent(young.keys())
        for key, tries in young.items():
            if key in silent.values() and tries + 1 < len(PAUSES_S):
                self._tries[key] = tries + 1
            else:
                del self._tries[key]
        if silent:
            log.info("no handshake yet, trying anew", peers=sorted(silent))
            self._section.renew(silent)
            self._redo((self._section.kind, str(node)) for node in silent)

    async def _silent(self, keys: AbstractSet[PublicKey]) -> dict[NodeId, PublicKey]:
        """Of these peers, those that never had a handshake. An engine that does not answer is the worker's matter."""
        try:
            states = (await self._device.read()).peers
        except DeviceError:
            return {}
        return {
            node: peer.public_key
            for node, peer in self._section.given.items()
            if peer.public_key in keys
            and (state := states.get(peer.public_key)) is not None
            and state.last_handshake is None
        }
