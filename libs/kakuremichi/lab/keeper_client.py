"""Speaking to the keeper of a run folder: start, stop, restart and kill units, and look at them."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from kakuremichi.lab import namespaces
from kakuremichi.lab.keeping import UnitStatus
from kakuremichi.lab.supervisor import Reply, Request
from kakuremichi.lab.units import Unit, UnitError

_SOCKET_PATH_LIMIT = 107  # sun_path of unix(7), less the closing zero
_STARTS_WITHIN_S = 10.0


class Units:
    """The units of one run folder, through its keeper. `async with Units(folder)` starts a keeper where none is.

    Leaving the block ends neither the keeper nor the units: `down` does. Every method raises UnitError.
    """

    def __init__(self, folder: Path, *, namespace: str | None = None) -> None:
        """`namespace` is the network namespace in which a new keeper lives: it ends with that namespace's lab."""
        self._folder = folder.absolute()
        self._namespace = namespace
        self._socket = self._folder / "keeper.sock"
        if len(os.fsencode(self._socket)) > _SOCKET_PATH_LIMIT:
            raise UnitError(f"{self._socket}: longer than {_SOCKET_PATH_LIMIT} bytes, which a unix socket cannot have")
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._turn = asyncio.Lock()
        self._keeper: subprocess.Popen[bytes] | None = None  # if it was us who started it

    async def __aenter__(self) -> Self:
        if not await self._connect():
            await self._start_keeper()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._disconnect()
        if self._keeper and self._keeper.poll() is None:
            self._keeper.returncode = 0  # it is meant to outlive us: Popen need not warn about it

    @property
    def keeper_pid(self) -> int:
        """The keeper's process; killing it harms no unit."""
        return int((self._folder / "keeper.lock").read_text())

    async def start(self, unit: Unit) -> UnitStatus:
        """Keep `unit`. One of the same name and definition is left alone, of another definition replaced."""
        return _named(await self._ask(Request("start", unit=unit)), unit.name)

    async def start_all(self, units: Iterable[Unit]) -> None:
        for unit in units:
            await self.start(unit)

    async def stop(self, name: str) -> UnitStatus:
        """Its stop signal, SIGKILL after 10 s; returns when it has ended."""
        return _named(await self._ask(Request("stop", name=name)), name)

    async def restart(self, name: str) -> UnitStatus:
        return _named(await self._ask(Request("restart", name=name)), name)

    async def kill(self, name: str, signal: str = "SIGKILL") -> UnitStatus:
        """Send a signal as a fault would; what it ends is started again."""
        return _named(await self._ask(Request("kill", name=name, signal=signal)), name)

    async def status(self) -> dict[str, UnitStatus]:
        return {status.name: status for status in await self._ask(Request("status"))}

    async def down(self) -> None:
        """Stop every unit and the keeper; returns when all have ended. Then this object is used up."""
        await self._ask(Request("down"))
        if self._streams:
            await self._streams[0].read()  # to the end: the keeper is gone
        await self._disconnect()
        if self._keeper:
            await asyncio.to_thread(self._keeper.wait)

    async def _ask(self, request: Request) -> tuple[UnitStatus, ...]:
        if self._streams is None:
            raise UnitError(f"{self._folder}: no connection to a keeper")
        reader, writer = self._streams
        async with self._turn:
            try:
                writer.write(msgspec.json.encode(request) + b"\n")
                await writer.drain()
                line = await reader.readline()
            except ConnectionError:
                line = b""
        if not line:
            raise UnitError(f"{self._folder}: the keeper has gone away")
        reply = msgspec.json.decode(line, type=Reply)
        if reply.error is not None:
            raise UnitError(reply.error)
        return reply.units

    async def _connect(self) -> bool:
        try:
            self._streams = await asyncio.open_unix_connection(self._socket, limit=1 << 20)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    async def _disconnect(self) -> None:
        if self._streams:
            self._streams[1].close()
            with suppress(ConnectionError):
                await self._streams[1].wait_closed()
            self._streams = None

    async def _start_keeper(self) -> None:
        self._keeper = _launch_keeper(self._folder, self._namespace)
        deadline = asyncio.get_running_loop().time() + _STARTS_WITHIN_S
        while not await self._connect():
            if self._keeper.poll() is not None or asyncio.get_running_loop().time() > deadline:
                raise UnitError(f"{self._folder}: the keeper did not start, see keeper.log there")
            await asyncio.sleep(0.02)


def _launch_keeper(folder: Path, namespace: str | None) -> "subprocess.Popen[bytes]":
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    argv = namespaces.command(namespace, [sys.executable, "-m", "kakuremichi.lab.supervisor", "--dir", str(folder)])
    with (folder / "keeper.log").open("ab") as log:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True)


def _named(statuses: tuple[UnitStatus, ...], name: str) -> UnitStatus:
    return next(status for status in statuses if status.name == name)
