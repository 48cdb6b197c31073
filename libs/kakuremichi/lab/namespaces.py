"""Network namespaces by name: entering one, running `ip` and `nft` in one, and who lives in which."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from kakuremichi.lab.programs import find_nft

NETNS = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12


class LabError(Exception):
    """The lab could not do what it was asked; the sentence says what failed and, where we know, what helps."""


def exists(namespace: str) -> bool:
    return (NETNS / namespace).exists()


@contextmanager
def in_namespace(namespace: str) -> Iterator[None]:
    """This thread inside `namespace`: sockets made here stay there for good, wherever they are used afterwards.

    Only the thread moves, so never await inside. Raises LabError when there is no such namespace.
    """
    with open("/proc/thread-self/ns/net", "rb") as home:  # noqa: PTH123  (a file descriptor is wanted)
        try:
            target = os.open(NETNS / namespace, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise LabError(f"namespace {namespace}: there is none of that name; is the lab up?") from error
        try:
            _setns(target)
        finally:
            os.close(target)
        try:
            yield
        finally:
            _setns(home.fileno())


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise LabError(f"entering a network namespace failed: {os.strerror(number)}")


def command(namespace: str | None, argv: Sequence[str]) -> list[str]:
    """`argv` so that it runs in `namespace` (None: where we are). `ip` becomes the program, so the pid is its own."""
    return list(argv) if namespace is None else ["ip", "netns", "exec", namespace, *argv]


def ip_batch(namespace: str | None, lines: Iterable[str], *, force: bool = False) -> None:
    """Run the lines by one `ip -batch`; with `force` a failing line is passed over. Raises LabError."""
    flags = [*(["-n", namespace] if namespace else []), *(["-force"] if force else [])]
    done = _feed(["ip", *flags, "-batch", "-"], "".join(f"{line}\n" for line in lines))
    if done.returncode and not force:
        raise LabError(f"ip in namespace {namespace or 'of the machine'}: {done.stderr.strip()}")


def nft(namespace: str, script: str) -> None:
    """Apply an nft script in `namespace` as one transaction. Raises LabError."""
    done = _feed(command(namespace, [str(find_nft()), "-f", "-"]), script)
    if done.returncode:
        raise LabError(f"nft in namespace {namespace}: {done.stderr.strip()}")


def write_sysctl(namespace: str, key: str, value: str, *, optional: bool = False) -> None:
    """Write /proc/sys/`key` as `namespace` sees it: /proc/sys/net belongs to the namespace of the thread."""
    with in_namespace(namespace):
        path = Path("/proc/sys") / key
        if optional and not path.exists():
            return
        try:
            path.write_text(value)
        except OSError as error:
            raise LabError(f"sysctl {key} in namespace {namespace}: {error.strerror}") from error


def kill_inhabitants(namespaces: Iterable[str], *, grace_s: float = 3.0) -> int:
    """End every process that lives in one of the namespaces: SIGTERM, after `grace_s` SIGKILL. Returns how many."""
    inodes = {(NETNS / name).stat().st_ino for name in namespaces if exists(name)}
    ended: set[int] = set()
    deadline = time.monotonic() + grace_s
    while inhabitants := [pid for pid in _pids() if _lives_in(pid, inodes)]:
        late = time.monotonic() > deadline
        for pid in inhabitants:
            # Again and again: a supervisor that dies in this round may have started something a moment ago.
            if late or pid not in ended:
                _signal_if_inside(pid, inodes, signal.SIGKILL if late else signal.SIGTERM)
                ended.add(pid)
        if late and time.monotonic() > deadline + 5:
            raise LabError(f"processes {inhabitants}: they do not end, not even by SIGKILL")
        time.sleep(0.02)
    return len(ended)


def _signal_if_inside(pid: int, inodes: set[int], signum: signal.Signals) -> None:
    # A pidfd pins the process: a pid that was given away since the scan is looked at again before it is signalled.
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            if _lives_in(pid, inodes):
                signal.pidfd_send_signal(descriptor, signum)
        finally:
            os.close(descriptor)


def _pids() -> Iterator[int]:
    own = str(os.getpid())
    yield from (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and entry.name != own)


def _lives_in(pid: int, inodes: set[int]) -> bool:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino in inodes  # noqa: PTH116  (os.stat follows this magic link cheaply)
    except OSError:
        return False  # gone, or a zombie: it has no namespaces any more


def _feed(argv: list[str], text: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(argv, input=text, capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{argv[0]}: no answer within 30 s") from error
