"""Kernel settings under /proc/sys: written only where they differ, read back, refused with a sentence."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kakuremichi.dataplane.links.interfaces import check_interface_name

PROC_SYS = Path("/proc/sys")
FORWARDING = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}


def without_ipv6(interface: str, root: Path = PROC_SYS) -> str:
    """Why the interface cannot have IPv6 addresses, as a sentence; "" if it can."""
    setting = f"net/ipv6/conf/{check_interface_name(interface)}/disable_ipv6"
    try:
        disabled = _read(root / setting) != "0"
    except OSError:
        return "this host has no IPv6: services are without visitors by IPv6, and without targets that have it"
    return f"sysctl {setting}: is not 0, so services are without targets that have IPv6" if disabled else ""


@dataclass(frozen=True, slots=True)
class Setting:
    """`name` is a path below /proc/sys (an interface name may hold dots, so the dotted form is ambiguous)."""

    name: str
    value: str
    error: str | None = None


def per_interface(interface: str, **values: str) -> dict[str, str]:
    """IPv4 settings of one interface, for example `per_interface("wg0", route_localnet="1", rp_filter="2")`.

    The kernel uses the larger of `all` and the interface's own rp_filter, so that 0 does not help where `all` is 1;
    2 (loose) wins over 1 and is what several tunnels to the same networks need.
    """
    return {f"net/ipv4/conf/{check_interface_name(interface)}/{key}": value for key, value in values.items()}


def ensure(settings: Mapping[str, str], root: Path = PROC_SYS) -> tuple[Setting, ...]:
    """Make each setting have its value; one result each, in order. Nothing is written where the value is right already.

    So a read-only /proc/sys (a container whose runtime sets them) is no error as long as the values are right.
    """
    return tuple(Setting(name, value, _ensure(root / name, name, value)) for name, value in settings.items())


def at_least(settings: Mapping[str, int], root: Path = PROC_SYS) -> tuple[Setting, ...]:
    """Raise what is lower, leave what is higher; one result each, in order."""
    return tuple(
        Setting(name, str(value), None if _is_at_least(root / name, value) else _ensure(root / name, name, str(value)))
        for name, value in settings.items()
    )


def _is_at_least(path: Path, value: int) -> bool:
    try:
        return int(_read(path)) >= value
    except (OSError, ValueError):
        return False


def _ensure(path: Path, name: str, value: str) -> str | None:
    try:
        if _read(path) == value:
            return None
        path.write_text(value)
        found = _read(path)
    except FileNotFoundError:
        return f"sysctl {name}: this kernel or network namespace does not have it"
    except OSError as error:
        return f"sysctl {name}: {value} is needed, writing it failed ({error.strerror}); set it from outside"
    return None if found == value else f"sysctl {name}: {value} is needed, the kernel says {found}"


def _read(path: Path) -> str:
    return " ".join(path.read_text().split())
