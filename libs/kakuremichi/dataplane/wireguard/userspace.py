"""wireguard-go through its socket. The daemon is a unit of its own: here is only who speaks to it."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from kakuremichi.dataplane.wireguard import uapi
from kakuremichi.dataplane.wireguard.desired import Peer
from kakuremichi.dataplane.wireguard.device import DeviceError, DeviceState, Outcome, apply_in_batches
from kakuremichi.dataplane.wireguard.diff import PeerState, RemovePeer, SetPeer, Step
from kakuremichi.model.keys import PrivateKey, PublicKey
from kakuremichi.runtime.errors import reason_of

UAPI_DIRECTORY = Path("/var/run/wireguard")

_ANSWER_S = 20.0
_ANSWER_BYTES = 1 << 26  # 65,000 peers at about 300 bytes are 20 MB
_BATCH = 250  # peers per request: about 15 ms of the daemon
_SLICE = 250  # peers parsed before the loop gets a turn
_RETRY_S = 0.05


class UserspaceDevice:
    """One interface of wireguard-go. Each call is a connection of its own, so a restarted daemon is found again."""

    def __init__(self, name: str, directory: Path = UAPI_DIRECTORY) -> None:
        self.name = name
        self._path = directory / f"{name}.sock"
        self._public_key: PublicKey | None = None

    def close(self) -> None:
        """Nothing is held between calls."""

    async def wait(self, seconds: float) -> None:
        """Until the daemon listens; only for the start, when it and we begin together. Raises DeviceError."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            try:
                _, writer = await asyncio.open_unix_connection(self._path)
            except OSError as error:
                if asyncio.get_running_loop().time() >= deadline:
                    raise self._error(f"wireguard-go does not listen at {self._path}; is it running?") from error
                await asyncio.sleep(_RETRY_S)
            else:
                writer.close()
                await writer.wait_closed()
                return

    async def read(self) -> DeviceState:
        has_key, lines = uapi.split_answer(await self._ask(uapi.GET))
        # A daemon that was started anew has no key, whatever we gave to the one before it.
        self._public_key = self._public_key if has_key else None
        try:
            head, peers = uapi.device_lines(lines)
            port = int(head.get("listen_port", "0"))
            return DeviceState(self._public_key, port, await _parsed(peers))
        except ValueError as error:
            raise self._error(f"wireguard-go answered what is no state: {error}") from error

    async def has_key(self, public_key: PublicKey) -> bool:
        """The protocol tells the private key only, which we do not read. But the daemon passes over a peer that is
        itself: so it is offered the key as a peer without allowed IPs, and asked whether it took it.
        """
        before = await self.read()
        if public_key in before.peers:
            return False
        await self._ask(uapi.set_request([SetPeer(Peer(public_key, frozenset()))]))
        after = await self.read()
        if public_key in after.peers:
            await self._ask(uapi.set_request([RemovePeer(public_key)]))
            return False
        self._public_key = public_key
        return True

    async def configure(self, private_key: PrivateKey, listen_port: int | None) -> None:
        await self._ask(uapi.configure_request(private_key, listen_port))
        self._public_key = private_key.public()

    async def apply(self, steps: Sequence[Step]) -> tuple[Outcome, ...]:
        return await apply_in_batches([steps[at : at + _BATCH] for at in range(0, len(steps), _BATCH)], self._send)

    async def _send(self, steps: Sequence[Step]) -> None:
        await self._ask(uapi.set_request(steps))

    async def _ask(self, request: bytes) -> bytes:
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer = await self._exchange(request)
            number = uapi.error_number(answer)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            # The request may hold the private key, so neither it nor the answer belongs into the sentence.
            raise self._error(f"wireguard-go at {self._path}: {reason_of(error)}") from error
        if number:
            raise self._error(f"wireguard-go refused it: {os.strerror(abs(number)).lower()}")
        return answer

    async def _exchange(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._path, limit=_ANSWER_BYTES)
        try:
            writer.write(request)
            await writer.drain()
            return await reader.readuntil(b"\n\n")
        finally:
            writer.close()

    def _error(self, sentence: str) -> DeviceError:
        return DeviceError(f"interface {self.name}: {sentence}")


async def _parsed(peers: Sequence[Sequence[str]]) -> Mapping[PublicKey, PeerState]:
    states = {}
    for number, lines in enumerate(peers, 1):
        state = uapi.peer_state(lines)
        states[state.peer.public_key] = state
        if number % _SLICE == 0:
            await asyncio.sleep(0)
    return states
