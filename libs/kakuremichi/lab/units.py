"""Units as data, and one running process of a unit: started in a session of its own, or adopted by its pid file."""

import asyncio
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import msgspec

from kakuremichi.lab import namespaces, record
from kakuremichi.model.ids import is_token


class UnitError(Exception):
    """A unit could not be started, stopped or found; the message is a sentence that names it."""


class Unit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program that the keeper keeps alive. Definitions lie in the run folder, 0700: `env` may hold secrets."""

    name: str
    argv: tuple[str, ...]
    namespace: str | None = None  # the network namespace (`Lab.namespace(host)`); None: where the keeper is
    env: dict[str, str] = {}  # on top of the keeper's own
    cwd: str | None = None
    log: str | None = None  # standard output and error; None: /dev/null
    stop_signal: str = "SIGTERM"  # what a stop sends first

    def __post_init__(self) -> None:
        if not is_token(self.name):
            raise UnitError(f"unit {self.name!r}: a name is 1 to 31 of a-z, 0-9 and '-', not led by '-'")
        if not self.argv:
            raise UnitError(f"unit {self.name}: argv is empty")
        signal_number(self.stop_signal)


def signal_number(name: str) -> signal.Signals:
    """`SIGTERM` or `TERM` as a number. Raises UnitError."""
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except KeyError as error:
        raise UnitError(f"signal {name!r}: there is none of that name") from error


class Process:
    """One living process of a unit, watched through a pidfd, so that it need not be our child."""

    def __init__(self, pid: int, descriptor: int, child: "subprocess.Popen[bytes] | None") -> None:
        self.pid = pid
        self.exited = asyncio.Event()
        self.exit_code: int | None = None  # stays None for an adopted process: only a parent is told
        self._descriptor = descriptor
        self._child = child
        asyncio.get_running_loop().add_reader(descriptor, self._reap)

    @classmethod
    def spawn(cls, unit: Unit, pid_file: Path) -> "Process":
        """Start the unit's program and note pid and start time. Raises UnitError."""
        argv = namespaces.command(unit.namespace, unit.argv)
        try:
            # The three standard descriptors never lead back to us: a program that outlives its keeper
            # must not hold a pipe that somebody reads to its end.
            with open(unit.log or os.devnull, "ab") as output:  # noqa: PTH123  (os.devnull is no Path)
                child = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=unit.cwd,
                    env={**os.environ, **unit.env},
                    start_new_session=True,
                )
        except OSError as error:
            raise UnitError(f"unit {unit.name}: {argv[0]} did not start: {error}") from error
        pid_file.write_text(f"{child.pid} {record.start_time(child.pid)}\n")
        return cls(child.pid, os.pidfd_open(child.pid), child)

    @classmethod
    def adopt(cls, pid_file: Path) -> "Process | None":
        """The process that the file names, if it is still that one; None otherwise."""
        try:
            pid, start_time = (int(word) for word in pid_file.read_text().split())
            descriptor = os.pidfd_open(pid)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return None
        if record.start_time(pid) != start_time:
            os.close(descriptor)
            return None
        return cls(pid, descriptor, None)

    def send(self, signum: signal.Signals) -> None:
        if not self.exited.is_set():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signum)

    def kill_session(self) -> None:
        """SIGKILL to the process and to what it left in its process group."""
        self.send(signal.SIGKILL)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def let_go(self) -> None:
        """Stop watching; the process lives on."""
        if not self.exited.is_set():
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        if self._child is not None:
            self.exit_code = self._child.wait()
        self.exited.set()
