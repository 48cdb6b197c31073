"""Which steps build the lab. Pure: the steps are data, so that a test or a reader can look at them."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from kakuremichi.lab.topology import MTU, UPLINK, Host, Segment, Topology

FOREIGN = {"gw3": "ufw.nft", "site-b": "docker.nft"}
"""Hosts that get somebody else's firewall with `foreign=True`, and the file of its rules."""


@dataclass(frozen=True, slots=True)
class IpBatch:
    """Lines for `ip -batch`, run in the namespace of `host`, or in the machine's own when that is None."""

    host: str | None
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sysctl:
    host: str
    key: str  # as a path under /proc/sys
    value: str
    optional: bool = False  # kernels without the module do not have the file


@dataclass(frozen=True, slots=True)
class Rules:
    """An nft script for the namespace of `host`."""

    host: str
    script: str


Step = IpBatch | Sysctl | Rules


def steps(topology: Topology, prefix: str, *, foreign: bool) -> tuple[Step, ...]:
    """Every step in order: namespaces, bridges and cables, addresses and routes, forwarding, firewalls."""
    return tuple(_steps(topology, prefix, foreign=foreign))


def _steps(topology: Topology, prefix: str, *, foreign: bool) -> Iterator[Step]:
    yield IpBatch(None, tuple(f"netns add {prefix}{host.name}" for host in topology.hosts))
    for host in topology.hosts:
        # Without duplicate detection IPv6 works at once instead of after two seconds.
        yield Sysctl(host.name, "net/ipv6/conf/default/accept_dad", "0", optional=True)
    for host in topology.hosts:
        if routed := topology.segments_of(host.name):
            yield from _no_bridge_filter(host)
            yield IpBatch(host.name, tuple(_bridges(topology, prefix, routed)))
    for host in topology.hosts:
        yield IpBatch(host.name, tuple(_own_lines(topology, host)))
        if host.forwards:
            yield Sysctl(host.name, "net/ipv4/ip_forward", "1")
            yield Sysctl(host.name, "net/ipv6/conf/all/forwarding", "1", optional=True)
        if host.masquerades:
            yield Rules(host.name, home_router_rules(topology.segments_of(host.name)))
    if foreign:
        for name in FOREIGN:
            yield Rules(name, foreign_rules(name))


def foreign_rules(host: str) -> str:
    """The nft script of the firewall that somebody else has on this host of :data:`FOREIGN`."""
    return (files("kakuremichi.lab") / "foreign" / FOREIGN[host]).read_text()


def _no_bridge_filter(router: Host) -> Iterator[Step]:
    # With br_netfilter loaded (Docker does it) frames between two ports would meet the router's forward chain.
    for family in ("iptables", "ip6tables", "arptables"):
        yield Sysctl(router.name, f"net/bridge/bridge-nf-call-{family}", "0", optional=True)


def _bridges(topology: Topology, prefix: str, segments: tuple[Segment, ...]) -> Iterator[str]:
    for segment in segments:
        # Snooping would hold back IPv6 neighbour discovery until the first multicast reports have come in.
        yield f"link add name {segment.name} mtu {MTU} type bridge mcast_snooping 0"
        yield f"link set dev {segment.name} up"
        yield from _addresses(segment, segment.router_number, segment.name)
        for host in topology.hosts:
            if host.segment == segment.name:
                port = f"p-{host.name}"
                # Both ends are born in their namespaces: several labs use the same names at once.
                yield f"link add name {port} mtu {MTU} type veth peer name {UPLINK} mtu {MTU} netns {prefix}{host.name}"
                yield f"link set dev {port} master {segment.name} up"


def _own_lines(topology: Topology, host: Host) -> Iterator[str]:
    yield "link set dev lo up"
    if host.segment is None:
        return
    segment = topology.segment(host.segment)
    yield f"link set dev {UPLINK} up"
    yield from _addresses(segment, host.number, UPLINK)
    yield f"route add default via {segment.address4(segment.router_number).ip}"
    if router6 := segment.address6(segment.router_number):
        yield f"route add ::/0 via {router6.ip}"


def _addresses(segment: Segment, number: int, device: str) -> Iterator[str]:
    yield f"addr add {segment.address4(number)} dev {device}"
    if address6 := segment.address6(number):
        yield f"addr add {address6} dev {device}"


def home_router_rules(inside: tuple[Segment, ...]) -> str:
    """Masquerade outwards; inwards only what answers. The table is named so that it is nobody else's."""
    names = ", ".join(f'"{segment.name}"' for segment in inside)
    return f"""table ip lab_router {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "{UPLINK}" masquerade
  }}
}}
table inet lab_firewall {{
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname {{ {names} }} accept
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    iifname {{ "lo", {names} }} accept
    meta l4proto {{ icmp, ipv6-icmp }} accept
  }}
}}
"""
