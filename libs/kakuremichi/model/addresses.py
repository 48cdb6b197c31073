"""Addresses and networks of the plan: each agent has a /24, the agent is .100 in it, gateways are .1 to .99.

Every IPv4 address in the tunnel has one of IPv6 beside it, which follows from it: see :func:`tunnel_address6`.
"""

import hashlib
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

AGENT_HOST = 100
SLOTS = range(1, 100)
SUBNET_PREFIX = 24
SUBNET6_PREFIX = 120  # what an agent's /24 is in the deployment's IPv6 network
WIREGUARD_PORT = 51820
AGENT_PORTS = range(20000, 60000)
_BROADCAST = IPv4Address("255.255.255.255")


class AddressRefusedError(ValueError):
    """The text is no address or network that may be used here; the message is a sentence."""


class Endpoint(NamedTuple):
    """Where a WireGuard peer is reached: a literal address and a UDP port."""

    address: IPAddress
    port: int

    def __str__(self) -> str:
        if self.address.version == 6:
            return f"[{self.address}]:{self.port}"
        return f"{self.address}:{self.port}"


def parse_network(text: str) -> IPNetwork:
    """A network in CIDR form without host bits; strict where `ipaddress` is lenient (no netmask form)."""
    head, slash, prefix = text.partition("/")
    if not slash or not prefix.isascii() or not prefix.isdigit() or not head.isascii() or head != head.strip():
        raise AddressRefusedError(f"network {text!r}: not of the form ADDRESS/PREFIX")
    try:
        return ip_network(text, strict=True)
    except ValueError as error:
        raise AddressRefusedError(f"network {text!r}: {error}") from error


def parse_address(text: str) -> IPAddress:
    try:
        address = ip_address(text)
    except ValueError as error:
        raise AddressRefusedError(f"address {text!r}: not an IPv4 or IPv6 address") from error
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise AddressRefusedError(f"address {text!r}: a zone id means nothing to anybody else")
    return address


def parse_endpoint(text: str, *, default_port: int = WIREGUARD_PORT) -> Endpoint:
    """`IP`, `IP:PORT` or `[IP]:PORT`; names are refused, because a resolver would decide whom we speak to."""
    host, port = text, default_port
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise AddressRefusedError(f"endpoint {text!r}: not of the form [IP]:PORT")
        port = _port(text, rest[1:]) if rest else default_port
    elif text.count(":") == 1:
        host, _, digits = text.partition(":")
        port = _port(text, digits)
    address = parse_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        # Python 3.11 judges such an address as IPv6: ::ffff:169.254.169.254 would count as no link-local one.
        raise AddressRefusedError(f"endpoint {text!r}: an IPv4 address inside an IPv6 one, write it as IPv4")
    if address.is_unspecified or address.is_multicast or address == _BROADCAST:
        raise AddressRefusedError(f"endpoint {text!r}: no peer can be reached at this address")
    return Endpoint(address, port)


def _port(text: str, digits: str) -> int:
    if not (digits.isascii() and digits.isdigit() and 0 < int(digits) < 65536):
        raise AddressRefusedError(f"endpoint {text!r}: the port is not a number from 1 to 65535")
    return int(digits)


def agent_address(subnet: IPv4Network) -> IPv4Address:
    return subnet[AGENT_HOST]


def gateway_address(subnet: IPv4Network, slot: int) -> IPv4Address:
    """The address of the gateway in `slot` (1 to 99) as the agent of `subnet` sees it."""
    if slot not in SLOTS:
        raise AddressRefusedError(f"slot {slot}: gateways have 1 to 99")
    return subnet[slot]


def host_network(address: IPAddress) -> IPNetwork:
    """The network that holds this address alone."""
    return ip_network(address)


def tunnel_network6(deployment: bytes) -> IPv6Network:
    """The /96 that holds every IPv6 address in the tunnels of this deployment: a ULA of RFC 4193, made of its id."""
    global_id = hashlib.sha256(b"kakuremichi tunnel " + deployment).digest()[:5]
    return IPv6Network((b"\xfd" + global_id + bytes(10), 96))


def tunnel_address6(network: IPv6Network, address: IPv4Address) -> IPv6Address:
    """The IPv6 address beside this IPv4 one of the tunnel: the same 32 bits at the end of the deployment's /96."""
    return network[int(address)]
