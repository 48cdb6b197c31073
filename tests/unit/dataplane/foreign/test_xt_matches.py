"""The matches of iptables that host firewalls are made of, as bytes that iptables 1.8.9 has written."""

import struct
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from kakuremichi.dataplane.foreign import xt
from kakuremichi.dataplane.foreign.packet import Packet

FIRST = Packet("forward", 4, "tcp", 8080, saddr=IPv4Address("198.51.100.7"), mark=0x6B000001, translated=True)
REPLY = replace(FIRST, reply=True, dport=None, sport=8080)


def conntrack(states: int, *, asked: int = 0x2001, inverted: int = 0) -> bytes:
    return bytes(146) + struct.pack("=HHHH", asked, inverted, states, 0) + bytes(10)


def multiport(*ports: int, which: int = 1, joined: tuple[int, ...] = (), inverted: bool = False) -> bytes:
    flags = bytes(1 if place in joined else 0 for place in range(15))
    return struct.pack("=BB15H", which, len(ports), *ports, *(0,) * (15 - len(ports))) + flags + bytes([inverted])


def tcp(first: int, last: int, *, mask: int = 0, flags: int = 0, inverted: int = 0) -> bytes:
    return struct.pack("=HHHHBBBB", 0, 65535, first, last, 0, mask, flags, inverted)


@pytest.mark.parametrize(
    ("name", "revision", "info", "first", "reply"),
    [
        ("conntrack", 3, conntrack(0x06), False, True),  # RELATED,ESTABLISHED
        ("conntrack", 3, conntrack(0x08), True, False),  # NEW
        ("conntrack", 3, conntrack(0x01), False, False),  # INVALID
        ("conntrack", 3, conntrack(0x80), True, True),  # DNAT
        ("conntrack", 2, conntrack(0x08, inverted=1), False, True),  # ! NEW
        ("conntrack", 3, conntrack(0x08, asked=0x2005), None, None),  # and an address
        ("state", 0, struct.pack("=I", 0x06), False, True),
        ("connmark", 1, struct.pack("=IIB3x", 0x6B000000, 0xFF800000, 0), True, True),
        ("connmark", 1, struct.pack("=IIB3x", 0x6B800000, 0xFF800000, 0), False, False),
        ("connmark", 1, struct.pack("=IIB3x", 1, 1, 1), False, False),
        ("mark", 1, struct.pack("=IIB3x", 0x4000, 0x4000, 0), False, False),
        ("comment", 0, b"any words".ljust(256, b"\0"), True, True),
        ("addrtype", 1, struct.pack("=HHI", 0, 4, 0), False, False),  # --dst-type LOCAL
        ("addrtype", 1, struct.pack("=HHI", 0, 4, 2), True, True),  # ! --dst-type LOCAL
        ("addrtype", 1, struct.pack("=HHI", 4, 0, 0), None, None),  # --src-type LOCAL
        ("tcp", 0, tcp(8080, 8080), True, None),
        ("tcp", 0, tcp(1, 1024), False, None),
        ("tcp", 0, tcp(0, 65535, mask=0x17, flags=0x02), True, False),  # --syn
        ("udp", 0, struct.pack("=HHHHB", 0, 65535, 8080, 8080, 0), False, False),
        ("multiport", 1, multiport(80, 443, 8000, 9000, joined=(2,)), True, None),
        ("multiport", 1, multiport(80, 443), False, None),
        ("multiport", 1, multiport(80, 443, inverted=True), True, None),
        ("multiport", 1, multiport(8080, which=2), True, True),
        ("set", 4, bytes(40), None, None),
        ("conntrack", 9, conntrack(0x08), None, None),
        ("conntrack", 3, b"short", None, None),
    ],
)
def test_a_match_says_yes_no_or_nothing(
    name: str, revision: int, info: bytes, first: bool | None, reply: bool | None
) -> None:
    assert xt.matches(name, revision, info, FIRST) is first
    assert xt.matches(name, revision, info, REPLY) is reply


def test_a_packet_to_this_host_is_of_local_type() -> None:
    local = replace(FIRST, hook="input")
    assert xt.matches("addrtype", 1, struct.pack("=HHI", 0, 4, 0), local) is True
