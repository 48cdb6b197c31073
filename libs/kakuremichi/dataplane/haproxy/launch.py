"""HAProxy as a process: how it is started, found again, and told to go."""

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.listening import PREFIX, Sockets

FD_CEILING = 524_288  # HAProxy allocates a table for all of them, and a container may show a limit of a billion
LOG_LIMIT = 8 * 1024 * 1024
_MASTER = re.compile(rb"^(\d+)\s+master\s", re.MULTILINE)


class Process:
    """A HAProxy master by its pidfd: that works for one we did not start ourselves, and never hits a reused pid."""

    def __init__(self, pid: int, child: "subprocess.Popen[bytes] | None" = None) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.started = time.monotonic()
        self._child = child

    def send(self, signum: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, signum)
        except ProcessLookupError:
            return  # it has ended, which the pidfd says too

    def forget(self) -> None:
        """After its end, or to leave it running."""
        if self._child is not None and self._child.poll() is None:
            self._child.returncode = 0  # left running on purpose: not a zombie that Popen should warn about
        os.close(self.pidfd)


def maxconn_for(fd_limit: int) -> int:
    """Visitors at a time: one descriptor for each, one for its server, and as many again for idle connections."""
    return max(64, (fd_limit - min(2000, fd_limit // 4)) // 4)


def find_program() -> Path | None:
    """HAProxy as it is installed; None if it is not."""
    found = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin")
    return Path(found) if found else None


def start(program: Path, config: Path, layout: Layout, sockets: Sockets) -> Process:
    """HAProxy in a session of its own, so that nothing sent to ours reaches it. Raises OSError."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = FD_CEILING if hard == resource.RLIM_INFINITY else min(hard, FD_CEILING)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("LISTEN_", "NOTIFY_", "KK_"))}
    environ |= {f"{PREFIX}{name}": str(sock.fileno()) for name, sock in sockets.items()}
    environ |= {"KK_ULIMIT": str(limit), "KK_MAXCONN": str(maxconn_for(limit))}
    command = [str(program), "-W", "-S", f"{layout.master_socket},mode,600", "-f", str(config)]
    # Not our own stderr: HAProxy outlives us, and would hold a pipe open that somebody reads to its end.
    with layout.log.open("ab") as log:
        child = subprocess.Popen(
            command,
            env=environ,
            pass_fds=[sock.fileno() for sock in sockets.values()],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    return Process(child.pid, child)


def find_running(layout: Layout) -> Process | None:
    """The master that answers at the master socket, whoever started it."""
    try:
        with socket.socket(socket.AF_UNIX) as master:
            master.settimeout(2.0)
            master.connect(str(layout.master_socket))
            master.sendall(b"show proc\n")
            master.shutdown(socket.SHUT_WR)
            reply = b""
            while part := master.recv(65536):
                reply += part
    except OSError:
        return None
    found = _MASTER.search(reply)
    try:
        return Process(int(found[1])) if found else None
    except ProcessLookupError:
        return None


def trim_log(layout: Layout) -> None:
    """HAProxy tells every change; beyond LOG_LIMIT the log starts anew and the former one is kept as `.1`."""
    try:
        if layout.log.stat().st_size > LOG_LIMIT:
            layout.log.with_suffix(".log.1").write_bytes(layout.log.read_bytes())
            os.truncate(layout.log, 0)  # HAProxy appends, so it goes on at the start
    except OSError:
        return  # a full disk must not end the parent
