"""Single visits to the public side of a lab's fleet, from any of its hosts."""

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kakuremichi.lab.internet import Lab

TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)  # by lower case name

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def connect(lab: Lab, source: str, address: str, port: int, timeout: float = TIMEOUT_S) -> socket.socket:
    with lab.in_namespace(source):
        return socket.create_connection((address, port), timeout=timeout)


def http_get(
    lab: Lab,
    gateway: str,
    host: str,
    path: str = "/",
    *,
    source: str = "visitor",
    trusted: Path | None = None,
    address: str = "",
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """One request over a new connection; HTTPS with the CA file `trusted`, certificate and name checked."""
    address = address or lab.address(gateway)
    connection = http.client.HTTPConnection(host, timeout=TIMEOUT_S)
    with connect(lab, source, address, 443 if trusted else 80) as plain:
        connection.sock = _secured(plain, host, trusted) if trusted else plain
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            said = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, answer.read(), said)
        finally:
            connection.close()


def greeting(lab: Lab, address: str, port: int, *, source: str = "visitor") -> str:
    """Who answers on a TCP port of the lab's targets, after one echo."""
    with connect(lab, source, address, port) as connection, connection.makefile("rb") as lines:
        said = lines.readline().decode().strip()
        connection.sendall(b"ping\n")
        assert lines.readline() == b"ping\n"
        return said.removeprefix("hello from ")


def udp_echo(lab: Lab, address: str, port: int, *, source: str = "visitor", timeout: float = TIMEOUT_S) -> bool:
    """Whether a datagram comes back."""
    with lab.in_namespace(source):
        probe = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    with probe, suppress(OSError):
        probe.settimeout(timeout)
        probe.connect((address, port))
        probe.send(b"are you there")
        return probe.recv(64) == b"are you there"
    return False


def outcome(lab: Lab, source: str, address: str, port: int, timeout: float = 1.0) -> str:
    """What becomes of a TCP connection: `open`, `refused`, `unreachable` or `silence`."""
    try:
        connect(lab, source, address, port, timeout).close()
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silence"
    except OSError:
        return "unreachable"
    return "open"


def _secured(plain: socket.socket, host: str, trusted: Path) -> ssl.SSLSocket:
    return ssl.create_default_context(cafile=str(trusted)).wrap_socket(plain, server_hostname=host)
