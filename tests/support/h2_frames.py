"""HTTP/2 frames by hand: enough to speak gRPC as a target, and to misbehave as a visitor (RFC 9113, RFC 7541)."""

import asyncio
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
EXTENDED_CONNECT = struct.pack(">HI", 8, 1)  # a setting


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    body: bytes


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Header fields as literals that are never indexed and never Huffman coded."""
    return b"".join(b"\x10" + _text(name) + _text(value) for name, value in fields)


def _text(value: str) -> bytes:
    raw = value.encode("latin-1")
    if len(raw) < 127:
        return bytes([len(raw)]) + raw
    length, rest = b"\x7f", len(raw) - 127
    while rest >= 128:
        length, rest = length + bytes([rest % 128 + 128]), rest // 128
    return length + bytes([rest]) + raw


def request(path: str, *more: tuple[str, str], host: str = "a.test", method: str = "GET") -> bytes:
    return block([(":method", method), (":scheme", "http"), (":path", path), (":authority", host), *more])


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    head = await reader.readexactly(9)
    kind, flags, stream = struct.unpack(">BBI", head[3:])
    return Frame(kind, flags, stream & 0x7FFFFFFF, await reader.readexactly(int.from_bytes(head[:3])))


@dataclass
class Grpc:
    """A gRPC target over clear HTTP/2: returns each message as it came, then the status in trailers."""

    heard: list[bytes] = field(default_factory=list)
    prefaces: list[bytes] = field(default_factory=list)

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            self.prefaces.append(await reader.readexactly(len(PREFACE)))
            writer.write(frame(SETTINGS, 0, 0))
            while True:
                await self._answer(await read_frame(reader), writer)
        writer.close()

    async def _answer(self, got: Frame, writer: asyncio.StreamWriter) -> None:
        if got.kind == SETTINGS and not got.flags & ACK:
            writer.write(frame(SETTINGS, ACK, 0))
        elif got.kind == HEADERS:
            self.heard.append(got.body)
            head = b"\x88" + block([("content-type", "application/grpc")])  # 0x88 is `:status 200`
            writer.write(frame(HEADERS, END_HEADERS, got.stream, head))
        elif got.kind == DATA and got.body:
            writer.write(frame(DATA, 0, got.stream, got.body))
            for stream in (0, got.stream):
                writer.write(frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", len(got.body))))
        if got.kind in {HEADERS, DATA} and got.flags & END_STREAM:
            trailers = block([("grpc-status", "0"), ("grpc-message", "well")])
            writer.write(frame(HEADERS, END_HEADERS | END_STREAM, got.stream, trailers))


class Visitor:
    """A connection of HTTP/2 with prior knowledge."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def come(cls, port: int, settings: bytes = b"") -> "Visitor":
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PREFACE + frame(SETTINGS, 0, 0, settings))
        return cls(reader, writer)

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    async def until(self, *kinds: int, stream: int | None = None) -> Frame:
        """The next frame of one of these kinds. Raises IncompleteReadError when the connection ends before."""
        async with asyncio.timeout(20):
            while True:
                got = await read_frame(self.reader)
                if got.kind in kinds and stream in {None, got.stream}:
                    return got

    async def ended(self) -> bool:
        """Whether HAProxy ends the connection, after whatever else it says."""
        with suppress(ConnectionError):
            async with asyncio.timeout(20):
                while await self.reader.read(65536):
                    pass
        return True

    def leave(self) -> None:
        self.writer.close()
