"""Where peers were last heard: kept with the last-known-good and given back to an engine that starts with nothing."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from kakuremichi.dataplane.wireguard.device import Device, DeviceError
from kakuremichi.dataplane.wireguard.diff import PeerState
from kakuremichi.model.addresses import AddressRefusedError, Endpoint, parse_endpoint
from kakuremichi.model.keys import PublicKey, PublicKeyField
from kakuremichi.runtime.files import write_atomically
from kakuremichi.wire.codec import WireError, decode_kept, encode

log = structlog.get_logger()

LOOK_S = 10.0
SAVE_EVERY = 3  # looks
GIVE_BACK_S = 180.0  # a session's life: who has not answered by then is somewhere else


class LastHeard:
    """Hints only: WireGuard speaks with whoever holds the key, wherever that is.

    `fresh`: the engine began with no peers in this life of the node; only then is anything given back.
    """

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self._path = path
        self._until = time.monotonic() + GIVE_BACK_S if fresh else 0.0
        self._kept = _read(path)
        self._saved = dict(self._kept)
        self.states: Mapping[PublicKey, PeerState] = {}  # as of the last look

    def endpoint(self, peer: PublicKey) -> Endpoint | None:
        """Where the engine may look for this peer; None once it had its time to find it."""
        return self._kept.get(peer) if time.monotonic() < self._until else None

    async def watch(self, device: Device, stop: asyncio.Event) -> None:
        """One dump of the engine every 10 s; the file is written every 30 s if anybody moved."""
        looks = 0
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_S)
            try:
                self.look((await device.read()).peers)
            except DeviceError as error:
                log.warning("engine not read", reason=str(error))
                continue
            looks += 1
            if looks % SAVE_EVERY == 0 or stop.is_set():
                await self.save()

    def look(self, states: Mapping[PublicKey, PeerState]) -> None:
        """What the engine says now. A peer that it has not heard yet keeps the place where it was heard before."""
        self.states = states
        heard = {
            key: state.peer.endpoint for key, state in states.items() if state.last_handshake and state.peer.endpoint
        }
        kept = {key: endpoint for key, endpoint in self._kept.items() if key in states}
        self._kept = kept | heard

    async def save(self) -> None:
        if self._kept == self._saved:
            return
        kept = dict(self._kept)
        data = encode({key: str(endpoint) for key, endpoint in kept.items()})
        try:
            await asyncio.to_thread(write_atomically, self._path, data)
        except OSError as error:
            log.warning("endpoints not saved", file=str(self._path), reason=str(error))
            return
        self._saved = kept


def _read(path: Path) -> dict[PublicKey, Endpoint]:
    try:
        kept: dict[PublicKey, str] = decode_kept(path.read_bytes(), dict[PublicKeyField, str], name=str(path))
        return {key: parse_endpoint(text) for key, text in kept.items()}
    except FileNotFoundError:
        return {}
    except (WireError, AddressRefusedError) as error:
        log.warning("endpoints not read", reason=str(error))
        return {}
