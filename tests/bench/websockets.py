"""A WebSocket client that costs the measuring side little: plain sockets, frames made beforehand."""

import base64
import secrets
import selectors
import socket
import time
from contextlib import ExitStack

from kakuremichi.lab.internet import Lab

CONNECTIONS = 64
SECONDS = 4.0
TEXT = b"sixty-four bytes is about what a chat, a cursor or a tick weighs"
ANSWER_S = 10.0
_SENT = b"\x82" + bytes([0x80 | len(TEXT)]) + bytes(4) + TEXT  # binary, masked with zeros, which leave it as it is
_ECHO = b"\x82" + bytes([len(TEXT)]) + TEXT


def messages_per_second(lab: Lab, host_name: str, port: int) -> float:
    """Each connection sends its next message when the last one's echo has come; an unexpected frame ends it."""
    with ExitStack() as open_ones, selectors.DefaultSelector() as selector:
        for _ in range(CONNECTIONS):
            connection = open_ones.enter_context(connect(lab, "visitor", host_name, port))
            selector.register(connection, selectors.EVENT_READ)
            connection.sendall(_SENT)
        count, began = 0, time.monotonic()
        while (took := time.monotonic() - began) < SECONDS:
            for key, _ in selector.select(timeout=1.0):
                _take_echo(key.fileobj)
                count += 1
    return count / took


def _take_echo(connection: object) -> None:
    assert isinstance(connection, socket.socket)
    frame = connection.recv(4096)
    while frame and len(frame) < len(_ECHO):
        frame += connection.recv(4096)
    if frame != _ECHO:
        raise RuntimeError(f"WebSocket: {frame[:40]!r} instead of the echo")
    connection.sendall(_SENT)


def connect(
    lab: Lab, source: str, host_name: str, port: int, *, gateway: str = "gw1", address: str = ""
) -> socket.socket:
    """An open WebSocket to /ws, from this address of `source`; RuntimeError if the answer is not 101."""
    with lab.in_namespace(source):
        own = (address, 0) if address else None
        connection = socket.create_connection((lab.address(gateway), port), timeout=ANSWER_S, source_address=own)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    connection.sendall(
        f"GET /ws HTTP/1.1\r\nHost: {host_name}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = connection.recv(4096)
        if not piece:
            break
        head += piece
    if not head.startswith(b"HTTP/1.1 101 "):
        connection.close()
        raise RuntimeError(f"WebSocket to {host_name}:{port}: {head[:100]!r}")
    return connection
