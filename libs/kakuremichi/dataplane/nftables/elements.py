"""Elements of sets and maps, the containers that both roles share, and what a node wants as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from kakuremichi.dataplane.nftables.marks import Proto, mark_of, number_of
from kakuremichi.dataplane.nftables.skeleton import Container, Skeleton
from kakuremichi.model.addresses import IPAddress, IPNetwork

TABLE_WIDE = 0  # owner of the elements that belong to no service

Key = tuple[str, ...]
Data = tuple[str, ...]
Place = tuple[str, Key]  # container and key: the kernel holds at most one element there


class Element(NamedTuple):
    """One element in the words of nft; a number is written one way only, so equal elements are equal texts."""

    container: str
    key: Key
    data: Data = ()

    @property
    def place(self) -> Place:
        return self.container, self.key


Elements = frozenset[Element]


class Refusal(NamedTuple):
    """An item that was left out: its owner's number (0: the table's own) and a sentence."""

    owner: int
    reason: str


class ItemRefusedError(ValueError):
    """A service or target cannot be expressed; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class Desired:
    """The whole table: the skeleton, each owner's elements, and the items that could not be expressed."""

    skeleton: Skeleton
    items: Mapping[int, Elements]
    refused: tuple[Refusal, ...] = field(default=())


class Ports(NamedTuple):
    """One port, or a range that keeps its numbers on every leg."""

    first: int
    last: int

    @classmethod
    def of(cls, first: int, last: int | None = None) -> "Ports":
        return cls(first, first if last is None else last)

    @property
    def single(self) -> bool:
        return self.first == self.last

    def __str__(self) -> str:
        return str(self.first) if self.single else f"{self.first}-{self.last}"


SHARED_CONTAINERS = (
    Container("ports", ("nf_proto", "inet_proto", "inet_service"), ("mark",)),
    Container("ranges", ("nf_proto", "inet_proto", "inet_service"), ("mark",), interval=True),
    Container("to4", ("mark",), ("ipv4_addr", "inet_service")),
    Container("to6", ("mark",), ("ipv6_addr", "inet_service")),
    Container("range4", ("mark",), ("ipv4_addr",)),
    Container("range6", ("mark",), ("ipv6_addr",)),
    Container("used", ("mark",), counter=True),  # packets and bytes, both directions
    Container("opened", ("mark",), counter=True),  # first packets of admitted flows
)


def check_ports(what: str, ports: Ports) -> None:
    if not 0 < ports.first <= ports.last < 65536:
        raise ItemRefusedError(f"{what}: ports {ports} are not within 1 to 65535 in ascending order")


def mark_text(number: int) -> str:
    return f"0x{mark_of(number):08x}"


def network_text(network: IPNetwork) -> str:
    """As nft lists it back: a single host has no prefix length."""
    if network.prefixlen == network.max_prefixlen:
        return str(network.network_address)
    return str(network)


def flow_elements(number: int, proto: Proto, ports: Ports, target: IPAddress, port: int) -> set[Element]:
    """(proto, ports) → number → target: what both roles need for one family of addresses."""
    digit = "4" if isinstance(target, IPv4Address) else "6"
    mark = mark_text(number)
    where = (
        Element(f"to{digit}", (mark,), (str(target), str(port)))
        if ports.single
        else Element(f"range{digit}", (mark,), (str(target),))
    )
    return {where, *_numbered(number, f"ipv{digit}", proto, ports)}


def carried_elements(number: int, family: int, ports: Ports, local_port: int) -> set[Element]:
    """TCP (family, ports) → number → a local port of this host."""
    where = Element(f"carried{family}", (mark_text(number),), (str(local_port),))
    return {where, *_numbered(number, f"ipv{family}", "tcp", ports)}


def _numbered(number: int, family: str, proto: Proto, ports: Ports) -> set[Element]:
    mark = mark_text(number)
    return {
        Element("ports" if ports.single else "ranges", (family, proto, str(ports)), (mark,)),
        Element("used", (mark,)),
        Element("opened", (mark,)),
    }


def is_routable(address: IPAddress) -> bool:
    """Whether a packet can be sent to it at all."""
    mapped = isinstance(address, IPv6Address) and address.ipv4_mapped is not None
    return not (address.is_unspecified or address.is_multicast or mapped or str(address) == "255.255.255.255")


def owner_of(element: Element) -> int:
    """The number in the element's mark; elements without one belong to the table as a whole."""
    for atom in (*element.key[:1], *element.data[:1]):
        if atom.startswith("0x"):
            return number_of(int(atom, 16))
    return TABLE_WIDE
