"""One keep-alive connection to the portal that costs the measuring side as little as can be."""

import asyncio
import json
import ssl
import time
from dataclasses import dataclass
from typing import Any, Self

from bench.stage import Stage
from kakuremichi.fleet.lab_fleet import PORTAL_PORT
from kakuremichi.runtime.tls import client_context


@dataclass(frozen=True, slots=True)
class Door:
    """Where the portal is and how one comes in."""

    host: str
    token: str
    tls: ssl.SSLContext

    @classmethod
    def of(cls, stage: Stage, token: str = "") -> Self:
        control = stage.fleet.control
        tls = client_context(control.ca_file)
        return cls(stage.lab.address("control"), token or control.token_file.read_text(), tls)


class HttpLine:
    def __init__(self, door: Door, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._head = f"Host: {door.host}\r\nAuthorization: Bearer {door.token}\r\n".encode()

    @classmethod
    async def open(cls, door: Door) -> Self:
        return cls(door, *await asyncio.open_connection(door.host, PORTAL_PORT, ssl=door.tls))

    async def call(self, method: str, path: str, body: dict[str, object] | None = None) -> tuple[float, dict[str, Any]]:
        """(seconds, the answer); RuntimeError for a refusal."""
        data = b"" if body is None else json.dumps(body).encode()
        began = time.monotonic()
        kind = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(data) if data else b""
        self._writer.write(f"{method} /api/v1{path} HTTP/1.1\r\n".encode() + self._head + kind + b"\r\n" + data)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
        answer = await self._reader.readexactly(length)
        took = time.monotonic() - began
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")):
            raise RuntimeError(f"{method} {path}: {answer[:300]!r}")
        return took, json.loads(answer) if method != "GET" else {}

    async def watch(self) -> asyncio.StreamReader:
        """Open the live view here; what comes is the caller's to read."""
        self._writer.write(b"GET /api/v1/live HTTP/1.1\r\n" + self._head + b"\r\n")
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"live view: {head[:200]!r}")
        return self._reader

    def close(self) -> None:
        self._writer.close()
