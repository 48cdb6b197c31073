"""Keeping one unit: it is started again whenever it ends, until it is told to stop."""

import asyncio
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from kakuremichi.lab.units import Process, Unit, UnitError, signal_number

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
SETTLED_AFTER_S = 10.0  # who lived this long has earned a short pause again
STOP_GRACE_S = 10.0

State = Literal["running", "waiting", "stopped"]


class UnitStatus(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    state: State  # waiting: it ended and starts again after the pause
    pid: int | None
    starts: int  # by this keeper; 0 for one that was adopted and never ended
    exit_code: int | None  # of the last process of which we were the parent; negative: the signal that ended it
    error: str | None  # why the last start failed


class Kept:
    """One unit under a keeper. `folder` has its definition (`NAME.json`) and its process (`NAME.pid`)."""

    def __init__(self, unit: Unit, folder: Path) -> None:
        self.unit = unit
        self._pid_file = folder / f"{unit.name}.pid"
        self._definition = folder / f"{unit.name}.json"
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._starts = 0
        self._exit_code: int | None = None
        self._error: str | None = None

    def start(self) -> None:
        """Begin to keep the unit; a living process of it is taken over. Nothing happens if it is kept already."""
        if self._task is None:
            self._write_definition()
            self._process = Process.adopt(self._pid_file)
            if self._process is None:
                self._spawn()
            self._task = asyncio.create_task(self._keep(), name=f"keep {self.unit.name}")

    async def stop(self) -> None:
        """End it: its stop signal, after 10 s SIGKILL; then what is left of its session. It is not started again."""
        await self._let_go_of_task()
        self._definition.unlink(missing_ok=True)
        if process := self._process:
            process.send(signal_number(self.unit.stop_signal))
            with suppress(TimeoutError):
                await asyncio.wait_for(process.exited.wait(), STOP_GRACE_S)
            process.kill_session()
            await process.exited.wait()
            self._process = None
        self._pid_file.unlink(missing_ok=True)

    async def restart(self) -> None:
        await self.stop()
        self.start()

    async def abandon(self) -> None:
        """Stop keeping; the process lives on and the next keeper adopts it."""
        await self._let_go_of_task()
        if self._process:
            self._process.let_go()

    def kill(self, signum: signal.Signals) -> None:
        """Send a signal as a fault would: whatever it ends is started again."""
        if self._process is None:
            raise UnitError(f"unit {self.unit.name}: it is not running")
        self._process.send(signum)

    def status(self) -> UnitStatus:
        alive = self._process is not None
        state: State = "running" if alive else "waiting" if self._task else "stopped"
        return UnitStatus(
            name=self.unit.name,
            state=state,
            pid=self._process.pid if self._process else None,
            starts=self._starts,
            exit_code=self._exit_code,
            error=self._error,
        )

    async def _keep(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            if self._process is not None:
                await self._process.exited.wait()
                self._exit_code, self._process = self._process.exit_code, None
            if time.monotonic() - began > SETTLED_AFTER_S:
                pause = FIRST_PAUSE_S
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)
            self._spawn()

    def _spawn(self) -> None:
        self._starts += 1
        try:
            self._process, self._error = Process.spawn(self.unit, self._pid_file), None
        except UnitError as error:
            self._error = str(error)  # shown in the status; tried again after the pause

    def _write_definition(self) -> None:
        fresh = self._definition.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(self.unit))
        fresh.rename(self._definition)

    async def _let_go_of_task(self) -> None:
        if task := self._task:
            self._task = None
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
