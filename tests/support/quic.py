"""The first packet of a visitor by QUIC, by hand: enough to hear which versions a server speaks (RFC 9000, 17.2.1)."""

import os
import socket

VERSION_1 = 1
_NOBODYS_VERSION = 0x1A1A1A1A  # reserved for making servers say what they speak
_SMALLEST_FIRST_PACKET = 1200


def versions_offered(address: str, port: int, timeout_s: float = 5.0) -> list[int]:
    """What is answered to a version that nobody speaks; [] without an answer."""
    ours, theirs = os.urandom(8), os.urandom(8)
    packet = b"\xc0" + _NOBODYS_VERSION.to_bytes(4) + b"\x08" + theirs + b"\x08" + ours
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.settimeout(timeout_s)
        door.connect((address, port))
        try:
            door.send(packet.ljust(_SMALLEST_FIRST_PACKET, b"\0"))
            answer = door.recv(2048)
        except (TimeoutError, ConnectionRefusedError):
            return []
    # Version 0, then the connection ids the other way round: nobody else can have made it.
    assert answer[1:23] == bytes(4) + b"\x08" + ours + b"\x08" + theirs, answer.hex()
    return [int.from_bytes(answer[start : start + 4]) for start in range(23, len(answer), 4)]
