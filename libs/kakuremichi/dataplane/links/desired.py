"""What our interface should look like: the data that links/diff.py compares."""

from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface, IPv6Network

from kakuremichi.model.addresses import IPNetwork

IPInterface = IPv4Interface | IPv6Interface

WIREGUARD_MTU = 1420  # 1500 less IPv6, UDP and WireGuard's own 32 bytes, so that it holds over both families
ROUTE_PROTOCOL = 107
"""The `proto` of every route we set (see `ip route show proto 107`). What bears another number is not ours."""
LOOPBACK6 = IPv6Network("::1/128")
"""A route to it leads to this host itself: packets of the interface that were translated to ::1 are delivered.

The kernel looks for ::1 among the routes of the interface alone that a packet came by, and finds none without it. It
is to IPv6 what `route_localnet` is to IPv4. A packet that came with ::1 in it is dropped before any rule or route.
"""


@dataclass(frozen=True, slots=True)
class LinkState:
    """One interface: its alias, whether it is up, its MTU, the addresses on it and our routes into it.

    Link-local IPv6 addresses are the kernel's own business and never part of this; neither are routes with another
    `proto` than ROUTE_PROTOCOL, such as those the kernel derives from the addresses.
    """

    alias: str
    up: bool = True
    mtu: int = WIREGUARD_MTU
    addresses: frozenset[IPInterface] = field(default_factory=frozenset)
    routes: frozenset[IPNetwork] = field(default_factory=frozenset)
