"""tcpdump in a host of the lab, and what it wrote put together to what each side said."""

import re
import signal
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kakuremichi.lab.internet import Lab

_FILE_HEADER, _LINK_TYPE, _SLL2, _SLL2_BYTES = 24, 20, 276, 20
_IPV4, _IPV6, _TCP = 0x0800, 0x86DD, 6
_SYN = 0x02
_WITHIN_S = 20.0


class CaptureError(Exception):
    """tcpdump did not start, or did not see everything; a sentence with what it said."""


@dataclass(frozen=True)
class Stream:
    """What one side of one TCP connection said, in order. `whole`: its beginning was seen."""

    source_port: int
    destination_port: int
    payload: bytes
    whole: bool


class Capture:
    """Every packet of one host, loopback included, from now until `stop`."""

    def __init__(self, lab: Lab, host: str, file: Path) -> None:
        self.host, self.file, self._said = host, file, file.with_suffix(".said")
        # The buffer (KiB) holds more than a whole run, so nothing is lost however late tcpdump gets its turn; that is
        # not so with --immediate-mode, where each packet takes the room of the longest. -Z root: otherwise it writes
        # as an account of its own, which may not enter the folder.
        argv = ["tcpdump", "-i", "any", "-y", "LINUX_SLL2", "-n", "-U", "-B", "65536", "-Z", "root", "-w", str(file)]
        with self._said.open("wb") as said:
            self._process = lab.popen(host, argv, stdout=said, stderr=said)
        self._wait(lambda: b"listening on" in self._said.read_bytes(), "did not start")

    def settle(self, mark: bytes) -> None:
        """Return once a packet with `mark` in it is in the file: all that was sent before is there too."""
        self._wait(lambda: mark in self.file.read_bytes(), "does not see what was sent at last")

    def stop(self) -> bytes:
        """The file's bytes; :class:`CaptureError` if the kernel had to drop packets. A second time too."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(_WITHIN_S)
            said = self._said.read_text()
            if not re.search(r"^0 packets dropped by kernel", said, re.MULTILINE):
                raise CaptureError(f"tcpdump on {self.host}: {said}")
        return self.file.read_bytes()

    def discard(self) -> None:
        """End it, whatever it saw."""
        self._process.kill()
        self._process.wait(_WITHIN_S)

    def _wait(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _WITHIN_S
        while not true():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise CaptureError(f"tcpdump on {self.host}: {what}: {self._said.read_text()}")
            time.sleep(0.02)


def streams(capture: bytes) -> list[Stream]:
    """The TCP streams of a capture, so that nothing hides by lying across two packets."""
    begun: dict[tuple[bytes, int, bytes, int], _Pieces] = {}
    done: list[tuple[tuple[bytes, int, bytes, int], _Pieces]] = []
    for source, destination, segment in _segments(capture):
        source_port, destination_port, seq = struct.unpack_from("!HHI", segment)
        key = (source, source_port, destination, destination_port)
        syn, payload = segment[13] & _SYN, segment[(segment[12] >> 4) * 4 :]
        if syn and key in begun and begun[key].first != seq + 1:
            done.append((key, begun.pop(key)))  # the same ports again: another connection
        pieces = begun.setdefault(key, _Pieces(seq + bool(syn)))
        pieces.whole |= bool(syn)
        if payload:
            pieces.by_seq.setdefault((seq + bool(syn) - pieces.first) % 2**32, payload)
    return [Stream(key[1], key[3], pieces.join(), pieces.whole) for key, pieces in (*done, *begun.items())]


@dataclass
class _Pieces:
    first: int
    whole: bool = False
    by_seq: dict[int, bytes] = field(default_factory=dict)

    def join(self) -> bytes:
        text = bytearray()
        end = 0
        for start, piece in sorted(self.by_seq.items()):
            if start + len(piece) > end:
                text += piece[max(0, end - start) :]
                end = start + len(piece)
        return bytes(text)


def _segments(capture: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(source, destination, TCP segment) of each packet."""
    assert struct.unpack_from("=I", capture, _LINK_TYPE)[0] == _SLL2
    at = _FILE_HEADER
    while at + 16 <= len(capture):
        kept = struct.unpack_from("=I", capture, at + 8)[0]
        frame, at = capture[at + 16 : at + 16 + kept], at + 16 + kept
        kind, packet = struct.unpack_from("!H", frame)[0], frame[_SLL2_BYTES:]
        if kind == _IPV4 and packet[9] == _TCP:
            # A length of 0 is that of a packet which the card would have cut: all of it is there.
            length = struct.unpack_from("!H", packet, 2)[0] or len(packet)
            yield packet[12:16], packet[16:20], packet[(packet[0] & 15) * 4 : length]
        elif kind == _IPV6 and packet[6] == _TCP:
            yield packet[8:24], packet[24:40], packet[40:]
