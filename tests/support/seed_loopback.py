"""The private services of the first seed: they listen on a site's loopback alone, one of them with TLS."""

import http.client
import json
import socket
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

from kakuremichi.fleet.lab_fleet import Fleet
from kakuremichi.lab.programs import find_haproxy
from kakuremichi.lab.units import Unit
from support import visits

SITE = "site-a"
TLS_NAME = "argocd.lab.test"

_TLS_END = """
global
  maxconn 4000
defaults
  mode http
  timeout connect 10s
  timeout client 2m
  timeout server 2m
frontend https
  bind 127.0.0.1:{port} ssl crt {pem}
  default_backend plain
backend plain
  server plain 127.0.0.1:{plain_port}
"""


@dataclass(frozen=True, slots=True)
class Door:
    """What a visitor finds at `public_port`: a service at 127.0.0.1:`private_port`, whose answers say `site`."""

    name: str
    site: str
    public_port: int
    private_port: int
    tls: bool = False

    @property
    def target(self) -> dict[str, object]:
        return {"agent": SITE, "address": "127.0.0.1", "port": self.private_port}


DOORS = (
    Door("frontend", "frontend", 5006, 31899),
    Door("backend", "backend", 8083, 31383),
    Door("argocd-http", "argocd", 8000, 30460),
    Door("argocd-https", "argocd", 8082, 30010, tls=True),
)


def pem(fleet: Fleet) -> Path:
    """The certificate of *.lab.test with its key, as the TLS service has it and visitors trust it."""
    return fleet.directory / "certificates" / "lab.pem"


def private_units(fleet: Fleet, directory: Path) -> tuple[Unit, ...]:
    """The programs at the site: three HTTP servers, and HAProxy that speaks TLS for one of them."""
    namespace = fleet.lab.namespace(SITE)
    units = []
    for door in DOORS:
        if door.tls:
            plain = next(other for other in DOORS if other.site == door.site and not other.tls)
            config = directory / f"{door.name}.cfg"
            config.write_text(
                _TLS_END.format(port=door.private_port, pem=pem(fleet), plain_port=plain.private_port).lstrip()
            )
            argv: tuple[str, ...] = (str(find_haproxy()), "-db", "-f", str(config))
        else:
            address = f"127.0.0.1:{door.private_port}"
            argv = (sys.executable, "-m", "kakuremichi.lab.targets", "--site", door.site, "--http", address)
        log = str(directory / f"{door.name}.log")
        units.append(Unit(name=f"private-{door.name}", argv=argv, namespace=namespace, log=log))
    return tuple(units)


class Visit:
    """One connection of a visitor, open from the start; `ask` may come much later. A step may take `patience_s`."""

    def __init__(self, fleet: Fleet, gateway: str, door: Door, *, patience_s: float = 20) -> None:
        self._door = door
        plain = visits.connect(fleet.lab, "visitor", fleet.lab.address(gateway), door.public_port, patience_s)
        self._sock: socket.socket = _secured(plain, pem(fleet)) if door.tls else plain

    def ask(self, path: str) -> str:
        """Who answers; raises if it is not the status 200 or not about this path."""
        connection = http.client.HTTPConnection(TLS_NAME)
        connection.sock = self._sock
        connection.request("GET", path)
        answer = connection.getresponse()
        said = json.loads(answer.read())
        if (answer.status, said["path"]) != (200, path):
            raise ValueError(f"{self._door.name}: {answer.status}, {said}")
        return str(said["site"])

    def close(self) -> None:
        self._sock.close()


def _secured(plain: socket.socket, trusted: Path) -> ssl.SSLSocket:
    return ssl.create_default_context(cafile=str(trusted)).wrap_socket(plain, server_hostname=TLS_NAME)
