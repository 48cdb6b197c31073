"""Private services of a test's own, in threads: sockets that were made in the namespace of a lab's host."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kakuremichi.lab.internet import Lab


@dataclass
class Seen:
    """What came in: (method, path, headers by lower case name) of each request."""

    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)


@contextmanager
def http_target(
    lab: Lab, host: str, port: int, *, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[Seen]:
    """An HTTP server that answers everything with its own path, and a header of its own."""
    seen = Seen()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            seen.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
            said = f"{self.path} {len(body)}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(said)))
            self.send_header("X-Target", "private")
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = answer  # noqa: N815  # http.server's names

        def log_message(self, *_: Any) -> None:
            """The test says what it wants to know."""

    listening = _listen(lab, host, address, port)
    server = ThreadingHTTPServer((address, port), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = tls.wrap_socket(listening, server_side=True) if tls else listening
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def tcp_target(
    lab: Lab, host: str, port: int, serve: Callable[[socket.socket], None], *, address: str = "127.0.0.1"
) -> Iterator[None]:
    """A TCP server; `serve` has each connection in a thread of its own."""
    listening = _listen(lab, host, address, port)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

    def handle(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(10)
            serve(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def _listen(lab: Lab, host: str, address: str, port: int) -> socket.socket:
    with lab.in_namespace(host):
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((address, port))
    listening.listen(128)
    return listening
