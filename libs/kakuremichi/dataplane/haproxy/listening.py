"""The public listening sockets of a gateway: made, handed over by systemd, or copied out of a running HAProxy."""

import ctypes
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kakuremichi.model.addresses import AddressRefusedError, IPAddress, parse_address

BACKLOG = 4096  # connects wait here while no HAProxy runs: late for a moment, never refused
PREFIX = "KK_FD_"
Sockets = dict[str, socket.socket]

_BIND = re.compile(r"\A([A-Za-z0-9_]{1,32})=(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):([0-9]{1,5})(,transparent)?\Z")
_SYSTEMD_FIRST_FD = 3
_IPV6_TRANSPARENT = 75  # Python has no name for it
_TRANSPARENT = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TRANSPARENT),
    socket.AF_INET6: (socket.IPPROTO_IPV6, _IPV6_TRANSPARENT),
}
_SYS_PIDFD_GETFD = 438  # the same on every architecture; Python 3.11 has no wrapper


class SocketError(Exception):
    """A listening socket cannot be had; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class Bind:
    """`name` becomes the variable `KK_FD_<name>` that the configuration binds.

    `transparent` sockets may be given connections to other ports by nft's `tproxy`, and know the port that was asked
    for. IPv6 needs that: HAProxy asks the kernel what stood before a `redirect` for IPv4 only. Needs CAP_NET_ADMIN.
    """

    name: str
    address: IPAddress
    port: int
    transparent: bool = False


def host_has_ipv6() -> bool:
    """Whether sockets of IPv6 can be had here; a kernel may be without."""
    return Path("/proc/net/if_inet6").exists()


def parse_bind(text: str) -> Bind:
    """`NAME=ADDRESS:PORT`, as `80=0.0.0.0:80`, `80V6=[::]:80` or `TCP6=[::]:1080,transparent`. Raises SocketError."""
    match = _BIND.match(text)
    if match is None or not 0 < int(match[4]) < 65536:
        raise SocketError(f"bind {text!r}: not of the form NAME=ADDRESS:PORT or NAME=[ADDRESS]:PORT[,transparent]")
    try:
        return Bind(match[1].upper(), parse_address(match[2] or match[3]), int(match[4]), match[5] is not None)
    except AddressRefusedError as error:
        raise SocketError(f"bind {text!r}: {error}") from error


def matches(sock: socket.socket, bind: Bind) -> bool:
    address, port, *_ = sock.getsockname()
    transparent = sock.getsockopt(*_TRANSPARENT[sock.family]) == 1
    return (parse_address(address), port, transparent) == (bind.address, bind.port, bind.transparent)


def listen(bind: Bind) -> socket.socket:
    """A listening socket. One for IPv6 takes IPv6 only: visitors by IPv4 would get ::ffff: addresses from it."""
    family = socket.AF_INET6 if bind.address.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if bind.transparent:
            sock.setsockopt(*_TRANSPARENT[family], 1)
        sock.bind((str(bind.address), bind.port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise SocketError(f"bind {bind.name}: {bind.address} port {bind.port}: {error.strerror}") from error
    return sock


def from_systemd(environ: Mapping[str, str], pid: int) -> Sockets:
    """The sockets of a systemd socket unit (sd_listen_fds(3)); `FileDescriptorName=` gives the bind name."""
    if environ.get("LISTEN_PID") != str(pid):
        return {}
    count = int(environ.get("LISTEN_FDS", "0"))
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    if len(names) != count:
        raise SocketError(
            f"LISTEN_FDNAMES: {len(names)} names for {count} sockets; set FileDescriptorName= in the unit"
        )
    return {name.upper(): socket.socket(fileno=_SYSTEMD_FIRST_FD + index) for index, name in enumerate(names)}


def from_process(pid: int) -> Sockets:
    """Duplicates of the sockets that a running HAProxy was started with, under the names in its environment.

    Needs the right to trace it: the same user, or CAP_SYS_PTRACE where Yama restricts that. Raises SocketError.
    """
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise SocketError(f"process {pid}: its sockets cannot be taken over ({error.strerror})") from error
    try:
        held = dict(line.split("=", 1) for line in environ if line.startswith(PREFIX) and "=" in line)
        return {
            name.removeprefix(PREFIX): socket.socket(fileno=_copy(pidfd, int(number)))
            for name, number in held.items()
            if number.isdigit()
        }
    finally:
        os.close(pidfd)


def _copy(pidfd: int, number: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    copied: int = libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)
    if copied < 0:
        raise SocketError(f"pidfd_getfd: socket {number} cannot be taken over ({os.strerror(ctypes.get_errno())})")
    return copied
