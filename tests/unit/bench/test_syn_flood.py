"""The flood's packets are SYNs that a kernel takes for real: a wrong checksum would be dropped before any guard."""

import socket
import struct

from bench.syn_flood import checksum, syn

SOURCE, TARGET = "198.51.100.66", "203.0.113.1"


def test_it_is_a_syn_from_the_source_port_to_the_target_port() -> None:
    packet = syn(SOURCE, TARGET, 4321, 80)

    assert len(packet) == 40
    assert (socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])) == (SOURCE, TARGET)
    own, port, _, acknowledged, length, flags = struct.unpack("!HHIIBB", packet[20:34])
    assert (own, port, acknowledged, length, flags) == (4321, 80, 0, 5 << 4, 0x02)


def test_the_sum_over_pseudo_header_and_segment_is_right() -> None:
    packet = syn(SOURCE, TARGET, 4321, 80)

    assert checksum(packet[12:20] + struct.pack("!HH", socket.IPPROTO_TCP, 20) + packet[20:]) == b"\0\0"


def test_the_checksum_is_that_of_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == bytes.fromhex("220d")
