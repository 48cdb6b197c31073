"""How many flows a gateway can know at once: the kernel's table, sized from memory, and how full it is."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kakuremichi.dataplane.links.sysctl import PROC_SYS, Setting, at_least

_MAX, _COUNT = "net/netfilter/nf_conntrack_max", "net/netfilter/nf_conntrack_count"
_BUCKETS = "net/netfilter/nf_conntrack_buckets"
_PORTS = "net/ipv4/ip_local_port_range"

ENTRY_BYTES = 512  # of a translated flow with its counters, generously
SHARE_OF_MEMORY = 16
LEAST, MOST = 2**16, 2**21

# HAProxy takes a port of its own for each connection to a target. Below are the ports that programs listen on.
FIRST_LOCAL_PORT, LAST_LOCAL_PORT = 16384, 65535

WARN_AT, CALM_AT = 0.8, 0.7


@dataclass(frozen=True, slots=True)
class Use:
    count: int
    maximum: int


def conntrack_sizes(memory: int) -> Mapping[str, int]:
    """The least values of the kernel's settings on a host with so many bytes of memory: a sixteenth of it for flows."""
    entries = min(max(memory // SHARE_OF_MEMORY // ENTRY_BYTES, LEAST), MOST)
    return {_BUCKETS: entries // 4, _MAX: entries}  # setting the buckets moves the maximum, so it comes after


def widened(ports: str) -> str:
    """The range of local ports with ours added; `ports` is the kernel's "first last"."""
    first, last = (int(word) for word in ports.split())
    return f"{min(first, FIRST_LOCAL_PORT)} {max(last, LAST_LOCAL_PORT)}"


def make_room(root: Path = PROC_SYS) -> tuple[Setting, ...]:
    """Enlarge the table and the range of local ports; never make either smaller.

    The table belongs to the host: in a container or namespace of its own a result is an error, and the kernel's size
    has to do. :func:`use_warning` tells if it does not.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (*at_least(conntrack_sizes(memory), root), _widen(root / _PORTS))


def _widen(path: Path) -> Setting:
    wanted = f"{FIRST_LOCAL_PORT} {LAST_LOCAL_PORT}"
    try:
        held = " ".join(path.read_text().split())
        wanted = widened(held)
        if wanted != held:
            path.write_text(wanted)
    except (OSError, ValueError) as error:
        return Setting(_PORTS, wanted, f"sysctl {_PORTS}: {wanted} is needed, setting it failed ({error})")
    return Setting(_PORTS, wanted)


def read_use(root: Path = PROC_SYS) -> Use | None:
    """None while the kernel tracks no flows, or does not say how many."""
    try:
        return Use(int((root / _COUNT).read_text()), int((root / _MAX).read_text()))
    except (OSError, ValueError):
        return None


def use_warning(use: Use | None, *, warned: bool) -> str:
    """A sentence from 80 % on and until it is below 70 % again, else "". It stays the same while the use moves."""
    if use is None or use.maximum <= 0 or use.count < use.maximum * (CALM_AT if warned else WARN_AT):
        return ""
    return (
        f"conntrack: {WARN_AT:.0%} of the {use.maximum} flows that this host can know are in use, new ones will be "
        "lost; raise sysctl net.netfilter.nf_conntrack_max"
    )
