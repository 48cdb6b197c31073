"""What HAProxy shall serve: services with their servers, and the front end that visitors meet. Values only."""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kakuremichi.model.addresses import IPAddress
from kakuremichi.model.ids import ServiceId, is_token

LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"\A({LABEL}\.)+{LABEL}\Z")
_SERVER_ID = re.compile(r"\A[A-Za-z0-9_-]{1,80}\Z")
_BIND_NAME = re.compile(r"\A[A-Z0-9_]{1,32}\Z")
MAX_HOST = 253
MAX_WEIGHT = 256


class ServiceRefusedError(ValueError):
    """A service, server or front end that HAProxy must not be given; the message names the field."""


class ServiceState(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"  # the name stays ours, visitors get 503, the servers stay configured


class RouteState(StrEnum):
    """What the front end does with a known name: lead on, or say in a 503 why not."""

    ACTIVE = "active"
    PAUSED = "paused"
    NO_TARGET = "no-target"


@dataclass(frozen=True, slots=True)
class Server:
    """One target behind a service. `weight` is 0 to 256; 0 drains: open connections live on, new ones go elsewhere."""

    id: str
    address: IPAddress
    port: int
    weight: int = 100
    backup: bool = False  # used only when no other server of the service is left

    def __post_init__(self) -> None:
        if not _SERVER_ID.match(self.id):
            raise ServiceRefusedError(f"server {self.id!r}: an id is 1 to 80 letters, digits, `_` or `-`")
        if self.address.is_unspecified or self.address.is_multicast or getattr(self.address, "ipv4_mapped", None):
            raise ServiceRefusedError(f"server {self.id}: address {self.address} is not one host's own address")
        if not 0 < self.port < 65536:
            raise ServiceRefusedError(f"server {self.id}: port {self.port} is not from 1 to 65535")
        if not 0 <= self.weight <= MAX_WEIGHT:
            raise ServiceRefusedError(f"server {self.id}: weight {self.weight} is not from 0 to 256")

    @property
    def name(self) -> str:
        # HAProxy cannot turn a server into a backup at run time. What cannot change is part of the name,
        # so that a change of it is another server: added, then the old one removed.
        return f"{self.id}.backup" if self.backup else self.id


@dataclass(frozen=True, slots=True)
class HttpService:
    """A host name and the servers that answer for it. Without one that takes visitors they read `no-target`."""

    id: ServiceId
    host: str
    servers: tuple[Server, ...] = ()
    state: ServiceState = ServiceState.ACTIVE

    def __post_init__(self) -> None:
        if not is_token(self.id):
            raise ServiceRefusedError(f"service {self.id!r}: an id is 1 to 31 of a-z, 0-9 and `-`, not led by `-`")
        if not is_host(self.host):
            raise ServiceRefusedError(f"service {self.id}: host {self.host!r} is not a lower case name with a dot")
        names = [server.name for server in self.servers]
        if len(set(names)) != len(names):
            raise ServiceRefusedError(f"service {self.id}: two servers have the same id")

    @property
    def route_key(self) -> str:
        """The key in the route map. Today the exact host name; `*.host` and `host/path` are free for later, as
        neither `*` nor `/` can stand in a host name.
        """
        return self.host

    @property
    def route_state(self) -> RouteState:
        if self.state is ServiceState.PAUSED:
            return RouteState.PAUSED
        # Said here and not found out by HAProxy (nbsrv): in a worker that is being replaced every backend
        # counts as empty, and its last visitors would be told so.
        return RouteState.ACTIVE if any(server.weight for server in self.servers) else RouteState.NO_TARGET


@dataclass(frozen=True, slots=True)
class Frontend:
    """The doors. `http` and `tls` name sockets that the parent passes as `KK_FD_<NAME>`."""

    http: tuple[str, ...] = ("80",)
    tls: tuple[str, ...] = ()
    crt_list: Path | None = None
    strict_sni: bool = True  # False answers names without a certificate with the first one of the list
    own_service: Path | None = None
    """Unix socket of the gateway's own HTTP server for /.well-known/kakuremichi/; 404 without it."""

    def __post_init__(self) -> None:
        for name in (*self.http, *self.tls):
            if not _BIND_NAME.match(name):
                raise ServiceRefusedError(f"front end: bind name {name!r} is not 1 to 32 of A-Z, 0-9 and `_`")
        if not self.http and not self.tls:
            raise ServiceRefusedError("front end: neither http nor tls names a socket")
        if self.tls and self.crt_list is None:
            raise ServiceRefusedError("front end: tls needs crt_list, a file that names the certificates")


@dataclass(frozen=True, slots=True)
class Tuning:
    """`threads`: None is as many as HAProxy may run on. `hard_stop_s`: how long an old worker may outlive a reload."""

    threads: int | None = None
    hard_stop_s: int = 3600


def is_host(text: str) -> bool:
    """Whether `text` is an exact host name as the front end compares it: lower case, no port, no trailing dot."""
    return len(text) <= MAX_HOST and _HOST.match(text) is not None
