"""The access log, of services that ask for it: what HAProxy says of their requests, as JSON lines in a file.

HAProxy sends datagrams without waiting and drops what nobody reads, so a slow disk costs lines and no visitor anything.
The file holds addresses of people: it is the owner's alone. It may be renamed at any time (logrotate).
"""

import asyncio
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from kakuremichi.runtime.files import append_private

log = structlog.get_logger()

KEPT = 20_000  # lines that wait for the disk
_ROOM = 1 << 20  # bytes of datagrams that wait for us


@dataclass
class AccessLog(asyncio.DatagramProtocol):
    """`door` is the socket that HAProxy's configuration names."""

    path: Path
    door: Path
    kept: int = KEPT
    dropped: int = 0
    _lines: list[bytes] = field(default_factory=list)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002  # asyncio's signature
        if not data.startswith(b"{"):
            return  # HAProxy's own, such as that a worker has ended
        if len(self._lines) >= self.kept:
            self.dropped += 1
            return
        self._lines.append(data.rstrip(b"\n") + b"\n")
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop; then what waits is written."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=_listen(self.door))
        stopped = asyncio.create_task(stop.wait())
        stopped.add_done_callback(lambda _: self._wake.set())
        try:
            while not stop.is_set():
                await self._wake.wait()
                self._wake.clear()
                await self._write()
        finally:
            stopped.cancel()
            transport.close()
            await self._write()

    async def _write(self) -> None:
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            await asyncio.to_thread(append_private, self.path, b"".join(lines))
        except OSError as error:
            self.dropped += len(lines)
            log.warning("access log not written", file=str(self.path), lines=len(lines), reason=str(error))


def _listen(door: Path) -> socket.socket:
    """The socket of a process before us is nobody's any more: HAProxy finds ours under the same name."""
    with suppress(FileNotFoundError):
        door.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
    sock.setblocking(False)
    before = os.umask(0o177)
    try:
        sock.bind(str(door))
    finally:
        os.umask(before)
    return sock
