"""The parent of HAProxy: holds the public listening sockets, starts HAProxy, and starts it again when it ends.

    python -m kakuremichi.dataplane.haproxy.holder --dir DIR --bind 80=0.0.0.0:80 --bind TLS=0.0.0.0:443

`--bind TCP6=[::]:15080,transparent` makes a socket to which nft's `tproxy` may give connections to other ports.

While HAProxy is away connections wait in the sockets' queues, so none is refused. The holder itself may be killed:
HAProxy goes on, and the next holder adopts it and copies the sockets out of it. Under systemd use `KillMode=process`
so that a killed holder does not take HAProxy along; sockets of a socket unit are taken instead of `--bind`.

SIGTERM and SIGINT stop HAProxy: new connections are refused at once, open ones get `--grace` seconds. A second one
ends it immediately. With `--leave-running` they end the holder only, for an update of it. SIGHUP reloads HAProxy.
"""

import argparse
import fcntl
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from kakuremichi.dataplane.haproxy import launch
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.listening import (
    Bind,
    SocketError,
    Sockets,
    from_process,
    from_systemd,
    listen,
    matches,
    parse_bind,
)

log = logging.getLogger("holder")

FAST_EXIT_S = 1.0
PAUSES_S = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0)  # after that many fast exits in a row
TAKEN_PORT_S = 5.0
_CHORES_S = 10.0


@dataclass(frozen=True, slots=True)
class Options:
    layout: Layout
    config: Path
    binds: tuple[Bind, ...]
    program: Path
    grace_s: float
    leave_running: bool


class Holder:
    def __init__(self, options: Options, inherited: Sockets) -> None:
        if not options.binds and not inherited:
            raise SocketError("no sockets: give --bind, or start from a systemd socket unit")
        self._options = options
        self._inherited = inherited
        self._sockets: Sockets = dict(inherited)
        self._stops = 0
        self._reload = False
        self._wake, self._woken = socket.socketpair()

    def run(self) -> None:
        """Until told to stop. Raises SocketError if a port is somebody else's."""
        self._listen_to_signals()
        process = self._adopt()
        fast_exits = 0
        while not self._stops:
            if process is None:
                self._pause(PAUSES_S[min(fast_exits, len(PAUSES_S) - 1)])
                process = self._start()
                continue
            self._watch(process)
            if not self._stops:
                lived = time.monotonic() - process.started
                log.warning("haproxy %d ended after %.1f s, starting it again", process.pid, lived)
                fast_exits = fast_exits + 1 if lived < FAST_EXIT_S else 0
                process.forget()
                process = None
        if process is not None:
            self._finish(process)

    def _adopt(self) -> launch.Process | None:
        process = launch.find_running(self._options.layout)
        if process is None:
            return None
        try:
            self._sockets = from_process(process.pid) | self._inherited
        except SocketError as error:
            log.warning("haproxy %d adopted without its sockets, its next end will refuse some: %s", process.pid, error)
        else:
            log.info("haproxy %d adopted with sockets %s", process.pid, " ".join(sorted(self._sockets)))
        return process

    def _start(self) -> launch.Process | None:
        """HAProxy started, or adopted if it was only slow to answer; None when told to stop before."""
        while not self._options.config.exists() and not self._stops:
            self._pause(0.05)  # whoever writes the files may start after us
        until = time.monotonic() + TAKEN_PORT_S
        while not self._stops:
            try:
                self._complete_sockets()
            except SocketError:
                # Perhaps a HAProxy that our predecessor started a moment before it was killed.
                if (process := self._adopt()) is not None:
                    return process
                if time.monotonic() > until:
                    raise
                self._pause(0.1)
            else:
                launch.trim_log(self._options.layout)
                process = launch.start(self._options.program, self._options.config, self._options.layout, self._sockets)
                log.info("haproxy %d started", process.pid)
                return process
        return None

    def _complete_sockets(self) -> None:
        kept = dict(self._inherited)
        for bind in self._options.binds:
            held = self._sockets.get(bind.name)
            if bind.name not in kept:
                kept[bind.name] = held if held is not None and matches(held, bind) else listen(bind)
        for name, held in self._sockets.items():
            if kept.get(name) is not held:
                held.close()
        self._sockets = kept

    def _watch(self, process: launch.Process) -> None:
        """Return when the process has ended or we are to stop."""
        while not self._stops and not self._ended(process, _CHORES_S):
            if self._reload:
                self._reload = False
                process.send(signal.SIGUSR2)
            launch.trim_log(self._options.layout)

    def _finish(self, process: launch.Process) -> None:
        if self._options.leave_running:
            log.info("haproxy %d left running", process.pid)
            process.forget()
            return
        for held in self._sockets.values():
            held.close()  # with HAProxy's own, else new connections would wait in the queue for nobody
        for signum, patience in ((signal.SIGUSR1, self._options.grace_s), (signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
            process.send(signum)
            stops, until = self._stops, time.monotonic() + patience
            while self._stops == stops and (left := until - time.monotonic()) > 0:
                if self._ended(process, left):
                    process.forget()
                    log.info("haproxy %d stopped", process.pid)
                    return

    def _ended(self, process: launch.Process, timeout_s: float) -> bool:
        """Whether it has ended; returns early for a signal."""
        ready, _, _ = select.select([process.pidfd, self._woken.fileno()], [], [], timeout_s)
        if self._woken.fileno() in ready:
            self._woken.recv(64)
        return process.pidfd in ready

    def _pause(self, seconds: float) -> None:
        if select.select([self._woken], [], [], seconds)[0]:
            self._woken.recv(64)

    def _listen_to_signals(self) -> None:
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        if signum == signal.SIGHUP:
            self._reload = True
        else:
            self._stops += 1


def main(arguments: Sequence[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s holder: %(message)s", stream=sys.stderr)
    try:
        options = _options(arguments)
        inherited = from_systemd(os.environ, os.getpid())
        with options.layout.lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Holder(options, inherited).run()
    except BlockingIOError:
        log.error("another holder is running in this directory")  # noqa: TRY400  # the trace would say no more
        return 1
    except (SocketError, OSError, ValueError) as error:
        log.error("%s", error)  # noqa: TRY400  # a sentence for the operator
        return 1
    return 0


def _options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="holder", description="Holds the listening sockets of HAProxy and runs it.")
    parser.add_argument("--dir", type=Path, required=True, help="private directory, made with mode 0700")
    parser.add_argument(
        "--bind", action="append", default=[], metavar="NAME=ADDRESS:PORT[,transparent]", help="may be repeated"
    )
    parser.add_argument("--config", type=Path, help="default: haproxy.cfg in the directory")
    parser.add_argument("--haproxy", type=Path, help="the program; default: from PATH or the sbin folders")
    parser.add_argument("--grace", type=float, default=10.0, metavar="SECONDS", help="for open connections at the end")
    parser.add_argument("--leave-running", action="store_true", help="end without stopping HAProxy")
    given = parser.parse_args(arguments)
    directory: Path = given.dir.resolve()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    program = given.haproxy or launch.find_program()
    if program is None:
        raise FileNotFoundError("haproxy: not found on PATH; apt-get install haproxy, or give --haproxy")
    binds = tuple(parse_bind(text) for text in given.bind)
    layout = Layout(directory)
    config = given.config.resolve() if given.config else layout.config
    return Options(layout, config, binds, program, given.grace, given.leave_running)


if __name__ == "__main__":
    sys.exit(main())
