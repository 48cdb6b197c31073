"""The small internet as data: which hosts there are, where they are plugged in and who routes. Nothing is done here.

        visitor .10   office .20   stranger .66                     198.51.100.0/24, 2001:db8:1::/64
             └────────────┼────────────┘
                       backbone                                     routes, bridges, injects faults
   ┌────────┬─────────────┼───────┬───────────┬───────────┐
control .100       gw1 gw2 gw3 gw4 .1-.4    nat-a .11   nat-b .12   nat-c .13     203.0.113.0/24, 2001:db8:2::/64
                                              │           ├─ app-b     │
                                            site-a      site-b       site-c
                                      192.168.10.0/24  192.168.2.0/24  10.1.0.0/24
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

MTU = 1500
UPLINK = "eth0"
DOMAIN = "lab.test"


@dataclass(frozen=True, slots=True)
class Segment:
    """One Ethernet: a bridge of this name inside the router's namespace, which has the router's address on it."""

    name: str
    router: str
    network4: IPv4Network
    network6: IPv6Network | None
    router_number: int

    def address4(self, number: int) -> IPv4Interface:
        return IPv4Interface((self.network4[number], self.network4.prefixlen))

    def address6(self, number: int) -> IPv6Interface | None:
        if self.network6 is None:
            return None
        # The same digits in both families read well: .66 is ::66.
        return IPv6Interface((self.network6[int(str(number), 16)], self.network6.prefixlen))


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace. `segment` is where its `eth0` is plugged in; its default route is that segment's router."""

    name: str
    segment: str | None = None
    number: int = 0
    forwards: bool = False
    masquerades: bool = False  # a home router: nothing gets in that nobody inside asked for


@dataclass(frozen=True, slots=True)
class Topology:
    segments: tuple[Segment, ...]
    hosts: tuple[Host, ...]
    faults_at: str  # the router on whose bridges partitions and losses are made

    def host(self, name: str) -> Host:
        for host in self.hosts:
            if host.name == name:
                return host
        raise UnknownHostError(f"host {name!r}: not in this lab, which has {', '.join(h.name for h in self.hosts)}")

    def segment(self, name: str) -> Segment:
        return next(segment for segment in self.segments if segment.name == name)

    def segments_of(self, router: str) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.router == router)

    def address(self, name: str) -> IPv4Address:
        """The host's own IPv4 address; a pure router answers with the one on its first segment."""
        host = self.host(name)
        if host.segment is None:
            segment = self.segments_of(name)[0]
            return segment.address4(segment.router_number).ip
        return self.segment(host.segment).address4(host.number).ip

    def address6(self, name: str) -> IPv6Address | None:
        host = self.host(name)
        segment = self.segments_of(name)[0] if host.segment is None else self.segment(host.segment)
        interface = segment.address6(segment.router_number if host.segment is None else host.number)
        return interface.ip if interface else None

    def outside(self, name: str) -> Host:
        """The host as the backbone sees it: itself, or the router that hides it."""
        host = self.host(name)
        if host.segment is None:
            return host
        router = self.host(self.segment(host.segment).router)
        return self.outside(router.name) if router.masquerades else host


class UnknownHostError(KeyError):
    """No such host; the sentence lists those that there are."""

    def __str__(self) -> str:
        return str(self.args[0])


def _private(name: str, router: str, network: str) -> Segment:
    # Sites have IPv4 only, as behind most home routers: whatever reaches them over IPv6 came through a tunnel.
    return Segment(name, router, IPv4Network(network), None, 1)


INTERNET = Topology(
    segments=(
        Segment("visitors", "backbone", IPv4Network("198.51.100.0/24"), IPv6Network("2001:db8:1::/64"), 254),
        Segment("public", "backbone", IPv4Network("203.0.113.0/24"), IPv6Network("2001:db8:2::/64"), 254),
        _private("lan-a", "nat-a", "192.168.10.0/24"),
        _private("lan-b", "nat-b", "192.168.2.0/24"),
        _private("lan-c", "nat-c", "10.1.0.0/24"),  # inside the default address pool on purpose
    ),
    hosts=(
        Host("backbone", forwards=True),
        Host("visitor", "visitors", 10),
        Host("office", "visitors", 20),
        Host("stranger", "visitors", 66),
        Host("control", "public", 100),
        # Gateways and agents set their own sysctls: that is part of what is tested.
        Host("gw1", "public", 1),
        Host("gw2", "public", 2),
        Host("gw3", "public", 3),
        Host("gw4", "public", 4),  # idle until somebody adds a gateway to a running fleet
        Host("nat-a", "public", 11, forwards=True, masquerades=True),
        Host("nat-b", "public", 12, forwards=True, masquerades=True),
        Host("nat-c", "public", 13, forwards=True, masquerades=True),
        Host("site-a", "lan-a", 10),
        Host("site-b", "lan-b", 122),
        Host("app-b", "lan-b", 130),  # a second machine of site b, without an agent
        Host("site-c", "lan-c", 50),
    ),
    faults_at="backbone",
)
