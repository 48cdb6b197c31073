"""What systemd wants to hear: READY, STOPPING and the watchdog's heartbeat. Without systemd it is silence."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress


def notify(state: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send one state line (`READY=1`) to `NOTIFY_SOCKET`; False if there is none or it does not take it."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # Linux: a name in the abstract namespace
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.connect(address)
        sender.send(state.encode())
        return True
    return False


def watchdog_interval_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds between heartbeats, half of what systemd allows; None if it watches not, or another process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2e6 if microseconds.isdecimal() and int(microseconds) else None
