"""The packet that a service lives by, byte by byte as the kernel would see it. None is a byte that may be anything."""

import struct
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address

from kakuremichi.dataplane.foreign.program import Hook, Load
from kakuremichi.dataplane.nftables.marks import Proto
from kakuremichi.model.addresses import IPAddress

Bytes = tuple[int | None, ...]

PROTOCOLS = {"tcp": 6, "udp": 17}
STATE_ESTABLISHED, STATE_NEW = 2, 8
_STATUS_SEEN_REPLY, _STATUS_CONFIRMED, _STATUS_DNAT = 0x2, 0x8, 0x120  # DNAT and that it was decided
_SYN, _SYN_ACK = 0x02, 0x12
_IFNAMSIZ = 16


# protocol, mark (nobody has set it), nfproto, pkttype (to us)
_OF_VERSION: dict[int, dict[int, Bytes]] = {
    4: {1: (0x08, 0x00), 3: (0, 0, 0, 0), 15: (2,), 19: (0,)},
    6: {1: (0x86, 0xDD), 3: (0, 0, 0, 0), 15: (10,), 19: (0,)},
}


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    index: int


@dataclass(frozen=True, slots=True)
class Packet:
    """What None leaves open is open: the verdict on such a packet holds for every value, or is no certain one."""

    hook: Hook
    version: int  # 4 or 6
    proto: Proto
    dport: int | None
    iif: Interface | None = None
    oif: Interface | None = None
    saddr: IPAddress | None = None
    daddr: IPAddress | None = None
    mark: int = 0  # of the flow
    translated: bool = False
    reply: bool = False  # its dport is the visitor's then, and open; `sport` is the service's
    sport: int | None = None

    @property
    def state(self) -> int:
        return STATE_ESTABLISHED if self.reply else STATE_NEW

    @property
    def status(self) -> int:
        answered = _STATUS_SEEN_REPLY | _STATUS_CONFIRMED if self.reply else 0
        return answered | (_STATUS_DNAT if self.translated else 0)


def load(packet: Packet, what: Load) -> Bytes:
    """As it stands in the register: with zeros up to a multiple of four bytes, as the kernel fills it up."""
    match what.what:
        case "meta":
            found = _meta(packet, what.key) or _unknown(what.length)
        case "ct":
            found = _ct(packet, what.key) or _unknown(what.length)
        case "payload" if what.key in (1, 2):
            header = _network(packet) if what.key == 1 else _transport(packet)
            found = (*header[what.offset :], *_unknown(what.length))[: what.length]
        case _:
            found = _unknown(what.length)
    return (*found, *(0 for _ in range(-len(found) % 4)))


def _meta(packet: Packet, key: int) -> Bytes:
    """Keys that need no look at the packet are in the table."""
    match key:
        case 4 | 5:
            interface = packet.iif if key == 4 else packet.oif
            return _number(interface.index) if interface else ()
        case 6 | 7:
            return _name(packet.iif if key == 6 else packet.oif)
        case 16:
            return (PROTOCOLS[packet.proto],)
        case _:
            return _OF_VERSION[packet.version].get(key, ())


def _ct(packet: Packet, key: int) -> Bytes:
    match key:
        case 0:
            return _number(packet.state)
        case 1:
            return (int(packet.reply),)
        case 2:
            return _number(packet.status)
        case 3:
            return _number(packet.mark)
        case _:
            return ()


def _network(packet: Packet) -> Bytes:
    proto = PROTOCOLS[packet.proto]
    source, to = _address(packet, packet.saddr), _address(packet, packet.daddr)
    if packet.version == 4:
        head: Bytes = (0x45, *_unknown(5), 0x40, 0, None, proto, None, None)  # whole, not a fragment
    else:
        head = (0x60, *_unknown(5), proto, None)
    return (*head, *source, *to)


def _transport(packet: Packet) -> Bytes:
    ports: Bytes = (*_port(packet.sport), *_port(packet.dport))
    if packet.proto == "udp":
        return ports
    return (*ports, *_unknown(9), _SYN_ACK if packet.reply else _SYN)


def _address(packet: Packet, address: IPAddress | None) -> Bytes:
    if address is None:
        return _unknown(4 if packet.version == 4 else 16)
    if (isinstance(address, IPv4Address)) != (packet.version == 4):
        raise ValueError(f"packet of IPv{packet.version}: {address} is of the other family")
    return tuple(address.packed)


def _port(port: int | None) -> Bytes:
    return _unknown(2) if port is None else tuple(struct.pack(">H", port))


def _name(interface: Interface | None) -> Bytes:
    return tuple(interface.name.encode().ljust(_IFNAMSIZ, b"\0")) if interface else _unknown(_IFNAMSIZ)


def _number(value: int) -> Bytes:
    return tuple(value.to_bytes(4, sys.byteorder))


def _unknown(length: int) -> Bytes:
    return (None,) * length
