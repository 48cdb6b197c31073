"""The matches and targets of iptables that firewalls of hosts are made of. Layouts: linux/netfilter/xt_*.h. Pure."""

import struct
from collections.abc import Callable, Iterable

from kakuremichi.dataplane.foreign.packet import Packet

# Targets that let the packet go on; others that we do not know may do anything.
PASSING = frozenset(
    ("LOG", "NFLOG", "MARK", "CONNMARK", "CT", "TRACE", "TCPMSS", "CHECKSUM", "AUDIT", "CLASSIFY", "DSCP", "SET",
     "SECMARK", "CONNSECMARK", "TEE", "TOS", "HL", "TTL", "RATEEST", "LED", "IDLETIMER")
)  # fmt: skip
DROPPING = frozenset(("REJECT", "DROP", "TARPIT"))

_CONNTRACK_STATE, _CONNTRACK_ALIAS = 0x0001, 0x2000
_CONNTRACK_FLAGS = struct.Struct("=HHH")  # match_flags invert_flags state_mask
_CONNTRACK_AT = 146  # behind eight addresses of 16 bytes, two times, the protocol and four ports
_CONNTRACK_DNAT = 0x80
_ADDRTYPE = struct.Struct("=HHI")  # source dest flags
_ADDRTYPE_INVERT_DEST = 0x2
_UNICAST, _LOCAL = 0x2, 0x4
_MARK = struct.Struct("=IIB")  # mark mask invert
_PORTS = struct.Struct("=HHHH")  # first and last source, first and last destination port
_MOST_MULTIPORTS = 15


def matches(name: str, revision: int, info: bytes, packet: Packet) -> bool | None:
    """None where that cannot be said."""
    known = _KNOWN.get((name, revision))
    try:
        return known(info, packet) if known else None
    except (struct.error, IndexError):
        return None


def _comment(_info: bytes, _packet: Packet) -> bool | None:
    return True


def _conntrack(info: bytes, packet: Packet) -> bool | None:
    asked, inverted, states = _CONNTRACK_FLAGS.unpack_from(info, _CONNTRACK_AT)
    if asked & ~(_CONNTRACK_STATE | _CONNTRACK_ALIAS):
        return None
    mine = packet.state | (_CONNTRACK_DNAT if packet.translated else 0)
    return bool(mine & states) != bool(inverted & _CONNTRACK_STATE)


def _state(info: bytes, packet: Packet) -> bool | None:
    (states,) = struct.unpack_from("=I", info)
    return bool(packet.state & states)


def _connmark(info: bytes, packet: Packet) -> bool | None:
    mark, mask, invert = _MARK.unpack_from(info)
    return bool(packet.mark & mask == mark) != bool(invert)


def _mark(info: bytes, _packet: Packet) -> bool | None:
    mark, _mask, invert = _MARK.unpack_from(info)
    return bool(mark == 0) != bool(invert)  # nobody has set the packet's own mark


def _addrtype(info: bytes, packet: Packet) -> bool | None:
    source, to, flags = _ADDRTYPE.unpack_from(info)
    if source or flags & ~_ADDRTYPE_INVERT_DEST:
        return None
    kind = _LOCAL if packet.hook == "input" else _UNICAST
    return bool(kind & to) != bool(flags & _ADDRTYPE_INVERT_DEST)


def _tcp(info: bytes, packet: Packet) -> bool | None:
    option, mask, wanted, inverted = info[8:12]
    if option or mask & ~0x17:  # FIN, SYN, RST and ACK are known of our packets
        return None
    flags = 0x12 if packet.reply else 0x02
    rest = ((flags & mask) == wanted) != bool(inverted & 4) if mask else True
    return packet.proto == "tcp" and rest and _ports(info, inverted, packet)


def _udp(info: bytes, packet: Packet) -> bool | None:
    return packet.proto == "udp" and _ports(info, info[8], packet)


def _ports(info: bytes, inverted: int, packet: Packet) -> bool | None:
    first, last, first_to, last_to = _PORTS.unpack_from(info)
    source = _within(packet.sport, ((first, last),), inverted=bool(inverted & 1))
    to = _within(packet.dport, ((first_to, last_to),), inverted=bool(inverted & 2))
    return None if None in (source, to) and False not in (source, to) else bool(source and to)


def _multiport(info: bytes, packet: Packet) -> bool | None:
    which, count = info[0], info[1]
    ports = struct.unpack_from(f"={_MOST_MULTIPORTS}H", info, 2)[:count]
    joined = info[32 : 32 + _MOST_MULTIPORTS]  # 1: this port begins a range that the next one ends
    inverted = bool(info[47])
    ranges, place = [], 0
    while place < count:
        step = 1 if joined[place] else 0
        ranges.append((ports[place], ports[place + step]))
        place += 1 + step
    either = [_within(port, ranges) for port in _chosen(which, packet)]
    found = True if True in either else None if None in either else False
    return None if found is None else found != inverted


def _chosen(which: int, packet: Packet) -> Iterable[int | None]:
    return {0: (packet.sport,), 1: (packet.dport,)}.get(which, (packet.sport, packet.dport))


def _within(port: int | None, ranges: Iterable[tuple[int, int]], *, inverted: bool = False) -> bool | None:
    ranges = tuple(ranges)
    if (0, 65535) in ranges:
        return not inverted
    return None if port is None else any(first <= port <= last for first, last in ranges) != inverted


_KNOWN: dict[tuple[str, int], Callable[[bytes, Packet], bool | None]] = {
    ("comment", 0): _comment,
    ("conntrack", 2): _conntrack,
    ("conntrack", 3): _conntrack,
    ("state", 0): _state,
    ("connmark", 1): _connmark,
    ("mark", 1): _mark,
    ("addrtype", 1): _addrtype,
    ("tcp", 0): _tcp,
    ("udp", 0): _udp,
    ("multiport", 1): _multiport,
}
