"""What a visitor sees: every published service fetched through every gateway."""

import http.client
import json
import socket
import time
from collections.abc import Iterable

from msgspec import Struct

from kakuremichi.fleet.lab_fleet import GATEWAYS, PrivateService
from kakuremichi.lab.internet import Lab

TIMEOUT_S = 5.0


class Fetch(Struct, frozen=True):
    """One fetch. `answered_by` is who answered at the other end, "" if nobody did; then `error` says why."""

    service: str
    gateway: str
    ok: bool
    answered_by: str
    ms: float
    error: str = ""


def fetch_all(lab: Lab, services: Iterable[PrivateService], gateways: Iterable[str] = GATEWAYS) -> list[Fetch]:
    names = tuple(gateways)
    return [fetch(lab, service, gateway) for service in services for gateway in names]


def fetch(lab: Lab, service: PrivateService, gateway: str) -> Fetch:
    """From the host `visitor`, with new connections."""
    began = time.monotonic()
    try:
        if service.public_port:
            answered = _greeting(lab, lab.address(gateway), service.public_port)
        else:
            answered = _site(lab, lab.address(gateway), service.host_name)
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        return Fetch(service.name, gateway, ok=False, answered_by="", ms=_ms(began), error=str(error))
    error_text = "" if answered == service.name else f"answered by {answered!r}"
    return Fetch(service.name, gateway, answered == service.name, answered, _ms(began), error_text)


def connect(lab: Lab, address: str, port: int) -> socket.socket:
    """A TCP connection from the visitor."""
    with lab.in_namespace("visitor"):
        return socket.create_connection((address, port), timeout=TIMEOUT_S)


def _site(lab: Lab, address: str, host: str) -> str:
    connection = http.client.HTTPConnection(host, timeout=TIMEOUT_S)
    connection.sock = connect(lab, address, 80)
    try:
        connection.request("GET", "/hello")
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise ValueError(f"status {answer.status}")
        return str(json.loads(body)["site"])
    finally:
        connection.close()


def _greeting(lab: Lab, address: str, port: int) -> str:
    with connect(lab, address, port) as connection, connection.makefile("rb") as lines:
        greeting = lines.readline().decode().strip()
        connection.sendall(b"ping\n")
        if lines.readline() != b"ping\n":
            raise ValueError("the echo did not come back")
        return greeting.removeprefix("hello from ")


def _ms(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 1)
