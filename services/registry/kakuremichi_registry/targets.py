"""Whether an address may be the target of a service. Pure; the agent's own `allow` file has the last word."""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from kakuremichi.model.addresses import AddressRefusedError, parse_address
from kakuremichi_registry.refusal import Refusal, invalid

# As the site's resolver takes it; the last label is not a number, so that no form of an address is taken for a name.
_NAME = re.compile(r"\A(?=.{1,253}\Z)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?\Z")

# Where clouds give out credentials to whoever asks from the host itself.
METADATA = frozenset({IPv4Address("169.254.169.254"), IPv4Address("100.100.100.200"), IPv4Address("168.63.129.16")})
THIS_NETWORK = IPv4Network("0.0.0.0/8")
RESERVED = IPv4Network("240.0.0.0/4")


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
    if isinstance(address, IPv6Address):
        raise _no_ipv6(address, field)
    reason = _reason(address)
    if reason:
        raise invalid(field, f"target address {text}: {reason}")
    return str(address)


def _reason(address: IPv4Address) -> str:
    if address in METADATA:
        return "a cloud's metadata service gives out credentials and is never published"
    if address in THIS_NETWORK:
        return "unspecified; use 127.0.0.1 for the agent itself"
    if address.is_link_local:
        return "link-local addresses are never published"
    if address.is_multicast:
        return "a multicast address is not one service"
    if address in RESERVED:
        return "a reserved or broadcast address is not one service"
    return ""


def _no_ipv6(address: IPv6Address, field: str) -> Refusal:
    if address.is_loopback:
        return invalid(field, "target address ::1: the kernel does not forward to it; use 127.0.0.1")
    return invalid(field, f"target address {address}: the tunnel carries IPv4, an IPv4 address is needed")
