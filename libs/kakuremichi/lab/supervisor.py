"""The keeper of a lab or a demo: `python -m kakuremichi.lab.supervisor --dir RUN`. It only starts again.

Units run in sessions of their own and outlive it; the next keeper of the same folder adopts them. It is told what
to do through RUN/keeper.sock (0600), one JSON object a line: start, stop, restart, kill, status, down. Class `Units`
in `keeper_client` speaks to it.
"""

import argparse
import asyncio
import fcntl
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from kakuremichi.lab.keeping import Kept, UnitStatus
from kakuremichi.lab.units import Unit, UnitError, signal_number

_LINE_LIMIT = 1 << 20


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    do: Literal["start", "stop", "restart", "kill", "status", "down"]
    unit: Unit | None = None  # for start
    name: str | None = None  # for stop, restart and kill
    signal: str = "SIGKILL"  # for kill


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    error: str | None = None  # a sentence; None: done
    units: tuple[UnitStatus, ...] = ()


class Keeper:
    """All units of one run folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "units"
        self._folder.mkdir(exist_ok=True)
        self._kept: dict[str, Kept] = {}
        self._turn = asyncio.Lock()  # one order after the other, so that a start never meets its own stop
        self.stopped = asyncio.Event()
        self._orders: dict[str, Callable[[Request], Awaitable[None]]] = {
            "start": self._start,
            "stop": self._stop,
            "restart": self._restart,
            "kill": self._kill,
            "status": self._status,
            "down": self._down,
        }

    def adopt_all(self) -> None:
        """Take over what an earlier keeper kept, and start what has ended meanwhile."""
        for definition in sorted(self._folder.glob("*.json")):
            unit = msgspec.json.decode(definition.read_bytes(), type=Unit)
            self._kept[unit.name] = Kept(unit, self._folder)
            self._kept[unit.name].start()

    async def abandon_all(self) -> None:
        for kept in self._kept.values():
            await kept.abandon()

    async def answer(self, line: bytes) -> Reply:
        """Do what one line asks; whatever is wrong with it becomes a sentence in the reply."""
        try:
            request = msgspec.json.decode(line, type=Request)
            async with self._turn:
                await self._orders[request.do](request)
        except (msgspec.DecodeError, UnitError) as error:
            return Reply(error=str(error))
        return Reply(units=tuple(kept.status() for kept in self._kept.values()))

    async def _start(self, request: Request) -> None:
        if request.unit is None:
            raise UnitError("start: the field unit is missing")
        known = self._kept.get(request.unit.name)
        if known and known.unit != request.unit:
            await known.stop()
            known = None
        if known is None:
            known = self._kept[request.unit.name] = Kept(request.unit, self._folder)
        known.start()

    async def _stop(self, request: Request) -> None:
        await self._named(request).stop()

    async def _restart(self, request: Request) -> None:
        await self._named(request).restart()

    async def _kill(self, request: Request) -> None:
        self._named(request).kill(signal_number(request.signal))

    async def _status(self, _request: Request) -> None:
        """Every reply carries the status of all units."""

    async def _down(self, _request: Request) -> None:
        await asyncio.gather(*(kept.stop() for kept in self._kept.values()))
        self.stopped.set()

    def _named(self, request: Request) -> Kept:
        if request.name not in self._kept:
            raise UnitError(f"unit {request.name!r}: there is none of that name")
        return self._kept[request.name]


async def serve(folder: Path) -> None:
    """Keep units until SIGTERM (they live on) or `down` (they are stopped first)."""
    keeper = Keeper(folder)
    keeper.adopt_all()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, keeper.stopped.set)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not _is_ours(writer):
            writer.close()
            return
        with suppress(ConnectionError, ValueError):  # ValueError: a line longer than the limit
            while line := await reader.readline():
                writer.write(msgspec.json.encode(await keeper.answer(line)) + b"\n")
                await writer.drain()
        writer.close()

    path = folder / "keeper.sock"
    path.unlink(missing_ok=True)
    usual = os.umask(0o177)  # the socket is ours alone from its first moment
    server = await asyncio.start_unix_server(converse, path, limit=_LINE_LIMIT)
    os.umask(usual)
    await keeper.stopped.wait()
    server.close()
    path.unlink(missing_ok=True)
    await keeper.abandon_all()


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    """Whether root or our own user is at the other end: who may speak here starts programs as us."""
    credentials = struct.Struct("3i")  # process, user, group
    sock = writer.get_extra_info("socket")
    _, user, _ = credentials.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))
    return user in (0, os.geteuid())


def main() -> None:
    parser = argparse.ArgumentParser(prog="kakuremichi.lab.supervisor", description="keeps the programs of a lab alive")
    parser.add_argument("--dir", type=Path, required=True, help="run folder: keeper.sock, units/")
    folder = parser.parse_args().dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Files per process: HAProxy and wireguard-go inherit the limit, and 1,024 would starve them.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with (folder / "keeper.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"{folder}: another keeper is at work here")
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        asyncio.run(serve(folder))


if __name__ == "__main__":
    main()
