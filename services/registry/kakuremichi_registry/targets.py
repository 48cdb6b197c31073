"""Whether an address may be the target of a service. Pure; the agent's own `allow` file has the last word."""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from kakuremichi.model.addresses import AddressRefusedError, IPAddress, parse_address
from kakuremichi_registry.refusal import invalid

# As the site's resolver takes it; the last label is not a number, so that no form of an address is taken for a name.
_NAME = re.compile(r"\A(?=.{1,253}\Z)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?\Z")

# Where clouds give out credentials to whoever asks from the host itself.
METADATA = frozenset(map(parse_address, ("169.254.169.254", "100.100.100.200", "168.63.129.16", "fd00:ec2::254")))
THIS_NETWORK = IPv4Network("0.0.0.0/8")
RESERVED = IPv4Network("240.0.0.0/4")
LOW6 = IPv6Network("::/96")  # held IPv4 addresses once; of it only ::1 is in use
NAT64 = IPv6Network("64:ff9b::/96")


def is_name(text: str) -> bool:
    """Whether the agent has to resolve it."""
    return _NAME.match(text) is not None


def check_target_address(text: str, field: str) -> str:
    """The address in its canonical form; :class:`Refusal` with a sentence if no service may be there."""
    try:
        address = parse_address(text)
    except AddressRefusedError as error:
        if is_name(text):
            return text
        raise invalid(field, f"target {error}, nor a lower case host name of the site") from error
    reason = _reason(address)
    if reason:
        raise invalid(field, f"target address {text}: {reason}")
    return str(address)


def has_ipv6(address: str) -> bool:
    """Whether this target is a literal IPv6 address; what a name stands for only its site knows."""
    return ":" in address


def _reason(address: IPAddress) -> str:
    if address in METADATA:
        return "a cloud's metadata service gives out credentials and is never published"
    if address.is_unspecified or address in THIS_NETWORK:
        return "unspecified; use 127.0.0.1 or ::1 for the agent itself"
    if address.is_link_local:
        return "link-local addresses are never published"
    if address.is_multicast:
        return "a multicast address is not one service"
    return _reason4(address) if isinstance(address, IPv4Address) else _reason6(address)


def _reason4(address: IPv4Address) -> str:
    return "a reserved or broadcast address is not one service" if address in RESERVED else ""


def _reason6(address: IPv6Address) -> str:
    if address.ipv4_mapped is not None or (address in LOW6 and not address.is_loopback):
        return "an IPv4 address inside an IPv6 one, write it as IPv4"
    if address in NAT64:
        # A site's translator would lead to what may not be published under its own address.
        return "a translator's address, write the IPv4 address behind it"
    return ""
