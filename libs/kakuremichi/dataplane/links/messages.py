"""rtnetlink messages for addresses and routes, as bytes. Pure. Layouts: linux/rtnetlink.h, linux/if_addr.h."""

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

from kakuremichi.dataplane.links.desired import LOOPBACK6, ROUTE_PROTOCOL, IPInterface
from kakuremichi.dataplane.links.diff import AddAddress, AddRoute, RemoveAddress, RemoveRoute
from kakuremichi.dataplane.links.netlink import NLM_F_CREATE, NLM_F_EXCL, Request, attribute, attributes
from kakuremichi.model.addresses import IPNetwork

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
FAMILIES = (socket.AF_INET, socket.AF_INET6)
SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_NOWHERE = 0, 253, 255
TABLE_MAIN, TABLE_LOCAL = 254, 255
TYPE_UNICAST, TYPE_LOCAL = 1, 2

_ROUTE = struct.Struct("=BBBBBBBBI")  # family dst_len src_len tos table protocol scope type flags
_ADDRESS = struct.Struct("=BBBBI")  # family prefixlen flags scope index
_INDEX = struct.Struct("=I")
_RTA_DST, _RTA_OIF = 1, 4
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD = 2

TableStep = AddAddress | RemoveAddress | AddRoute | RemoveRoute


@dataclass(frozen=True, slots=True)
class RouteRow:
    """One route of a dump, as far as we look at it. `network` of a default route has prefix length 0."""

    network: IPNetwork
    index: int | None
    protocol: int
    table: int
    kind: int


@dataclass(frozen=True, slots=True)
class AddressRow:
    address: IPInterface
    index: int
    scope: int


def request_for(step: TableStep, index: int) -> Request:
    """The message that performs one step on the interface of that index."""
    match step:
        case AddAddress(address):
            return Request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, _address_body(address, index))
        case RemoveAddress(address):
            return Request(RTM_DELADDR, 0, _address_body(address, index))
        case AddRoute(network):
            # EXCL: without it IPv4 would put a second route before a stranger's, and IPv6 join it as a next hop.
            return Request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, _route_body(network, index, adding=True))
        case RemoveRoute(network):
            return Request(RTM_DELROUTE, 0, _route_body(network, index, adding=False))


def dump_addresses(family: int, index: int = 0) -> bytes:
    """The body of an address dump; index 0 means all interfaces."""
    return _ADDRESS.pack(family, 0, 0, 0, index)


def dump_routes(family: int, *, protocol: int = 0, index: int | None = None) -> bytes:
    """The body of a route dump that the kernel itself filters by `proto` and interface."""
    oif = b"" if index is None else attribute(_RTA_OIF, _INDEX.pack(index))
    return _ROUTE.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0) + oif


def parse_route(body: memoryview) -> RouteRow | None:
    """None for a family that is neither IPv4 nor IPv6."""
    family, prefix, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(body)
    if family not in FAMILIES:
        return None
    destination, index = bytes(4 if family == socket.AF_INET else 16), None
    for attribute_kind, payload in attributes(body, _ROUTE.size):
        if attribute_kind == _RTA_DST:
            destination = bytes(payload)
        elif attribute_kind == _RTA_OIF:
            (index,) = _INDEX.unpack(payload)
    network = (IPv4Network if family == socket.AF_INET else IPv6Network)((destination, prefix))
    return RouteRow(network, index, protocol, table, kind)


def parse_address(body: memoryview) -> AddressRow | None:
    """None for a family that is neither IPv4 nor IPv6."""
    family, prefix, _, scope, index = _ADDRESS.unpack_from(body)
    found = dict(attributes(body, _ADDRESS.size))
    # IFA_ADDRESS is the peer's on a point-to-point link; IFA_LOCAL, where it is present, is ours.
    packed = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS))
    if family not in FAMILIES or packed is None:
        return None
    address = (IPv4Interface if family == socket.AF_INET else IPv6Interface)((bytes(packed), prefix))
    return AddressRow(address, index, scope)


def _address_body(address: IPInterface, index: int) -> bytes:
    packed = address.ip.packed
    # A tunnel has no neighbours to ask, and an address under duplicate detection cannot be bound yet.
    flags = _IFA_F_NODAD if address.version == 6 else 0
    head = _ADDRESS.pack(_family(address), address.network.prefixlen, flags, SCOPE_UNIVERSE, index)
    return head + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)


def _route_body(network: IPNetwork, index: int, *, adding: bool) -> bytes:
    # Removing matches any scope. IPv6 knows no scopes and wants zero.
    scope = SCOPE_UNIVERSE if network.version == 6 else SCOPE_LINK if adding else SCOPE_NOWHERE
    table, kind = (TABLE_LOCAL, TYPE_LOCAL) if network == LOOPBACK6 else (TABLE_MAIN, TYPE_UNICAST)
    head = _ROUTE.pack(
        _family(network), network.prefixlen, 0, 0, table, ROUTE_PROTOCOL, scope, kind if adding else 0, 0
    )
    return head + attribute(_RTA_DST, network.network_address.packed) + attribute(_RTA_OIF, _INDEX.pack(index))


def _family(place: IPInterface | IPNetwork) -> int:
    return socket.AF_INET if place.version == 4 else socket.AF_INET6
