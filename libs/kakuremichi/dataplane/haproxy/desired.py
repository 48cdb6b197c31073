"""What HAProxy shall serve: services with their servers, and the front end that visitors meet. Values only."""

import hashlib
import re
import ssl
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kakuremichi.model.addresses import AddressRefusedError, IPAddress, parse_network
from kakuremichi.model.ids import ServiceId, is_token
from kakuremichi.model.options import NO_OPTIONS, OptionRefusedError, Options, check_options, check_path

LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"\A({LABEL}\.)+{LABEL}\Z")
_SERVER_ID = re.compile(r"\A[A-Za-z0-9_-]{1,80}\Z")
_BIND_NAME = re.compile(r"\A[A-Z0-9_]{1,32}\Z")
MAX_HOST = 253
MAX_WEIGHT = 256
MAX_SAMPLE = 1_000_000
PAGE = 503  # the status of a service that is paused or has no target


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
    OWN_PAGE = "own-page"  # paused or without a target, and the service's own page says so


@dataclass(frozen=True, slots=True)
class Server:
    """One target behind a service. `weight` is 0 to 256; 0 drains: open connections live on, new ones go elsewhere."""

    id: str
    address: IPAddress
    port: int
    weight: int = 100
    backup: bool = False  # used only when no other server of the service is left
    transport: tuple[str, ...] = ()  # words of the server line; the service's options give them

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
        # HAProxy cannot turn a server into a backup or teach it TLS at run time. What cannot change is part of
        # the name, so that a change of it is another server: added, then the old one removed.
        name = f"{self.id}.backup" if self.backup else self.id
        return f"{name}.{hashlib.sha256(' '.join(self.transport).encode()).hexdigest()[:8]}" if self.transport else name


@dataclass(frozen=True, slots=True)
class HttpService:
    """A host name and the servers that answer for it. Without one that takes visitors they read `no-target`.

    `host` may be a wildcard `*.example.com`, which stands for one label. `path` narrows it to a prefix or, with
    `options.http.exact`, to one path. `sources` are networks in CIDR form that may visit it; () is everybody.
    `log_one_in` sends every n-th request to the access log; 0 none.
    """

    id: ServiceId
    host: str
    servers: tuple[Server, ...] = ()
    state: ServiceState = ServiceState.ACTIVE
    path: str = ""
    options: Options = NO_OPTIONS
    sources: tuple[str, ...] = ()
    log_one_in: int = 0

    def __post_init__(self) -> None:
        _check_common(self)
        if not is_host(self.host.removeprefix("*.")):
            raise ServiceRefusedError(f"service {self.id}: host {self.host!r} is not a lower case name with a dot")
        try:
            check_path(self.path)
            check_options("http", self.path, self.options)
        except OptionRefusedError as error:
            raise ServiceRefusedError(f"service {self.id}: {error}") from error
        if ";" in self.path + self.options.http.replace_prefix:
            # Some servers cut parameters off a path before they read it: two ways to say one path.
            raise ServiceRefusedError(f"service {self.id}: path has a `;`, which does not name a path everywhere")
        _check_authority(self)

    @property
    def is_wildcard(self) -> bool:
        return self.host.startswith("*.")

    @property
    def route_key(self) -> str:
        """The one key that leads to it, see `naming`."""
        if not self.path:
            return self.host
        return f"{self.host}{self.path}" if self.options.http.exact else f"{self.host}{self.path}/"

    @property
    def route_keys(self) -> tuple[str, ...]:
        """With the key that tells the front end to look at the paths of this host, if it is for a path."""
        return (self.route_key, f"{self.host}/") if self.path else (self.route_key,)

    @property
    def route_state(self) -> RouteState:
        state = self._state()
        return RouteState.OWN_PAGE if state is not RouteState.ACTIVE and PAGE in self.options.http.pages else state

    def _state(self) -> RouteState:
        if self.state is ServiceState.PAUSED or self.options.paused:
            return RouteState.PAUSED
        # Said here and not found out by HAProxy (nbsrv): in a worker that is being replaced every backend
        # counts as empty, and its last visitors would be told so.
        return RouteState.ACTIVE if any(server.weight for server in self.servers) else RouteState.NO_TARGET


@dataclass(frozen=True, slots=True)
class TcpService:
    """A TCP port whose visitors go through HAProxy: by IPv6 to targets of IPv4, or announced by PROXY protocol.

    nft leads the port to the front end's `tcp` binds: by `redirect` for IPv4, by `tproxy` to a transparent one for
    IPv6. What came to another port gets nothing.
    """

    id: ServiceId
    port: int
    servers: tuple[Server, ...] = ()
    options: Options = NO_OPTIONS
    sources: tuple[str, ...] = ()
    log_one_in: int = 0

    def __post_init__(self) -> None:
        _check_common(self)
        if not 0 < self.port < 65536:
            raise ServiceRefusedError(f"service {self.id}: port {self.port} is not from 1 to 65535")
        try:
            check_options("tcp", "", self.options)
        except OptionRefusedError as error:
            raise ServiceRefusedError(f"service {self.id}: {error}") from error

    @property
    def route_key(self) -> str:
        return f":{self.port}"

    @property
    def route_keys(self) -> tuple[str, ...]:
        return (self.route_key,)

    @property
    def route_state(self) -> RouteState:
        return RouteState.ACTIVE if any(server.weight for server in self.servers) else RouteState.NO_TARGET


Service = HttpService | TcpService


@dataclass(frozen=True, slots=True)
class Frontend:
    """The doors. `http`, `tls` and `tcp` name sockets that the parent passes as `KK_FD_<NAME>`."""

    http: tuple[str, ...] = ("80",)
    tls: tuple[str, ...] = ()
    crt_list: Path | None = None
    strict_sni: bool = True  # False answers names without a certificate with the first one of the list
    own_service: Path | None = None
    """Unix socket of the gateway's own HTTP server for /.well-known/kakuremichi/; 404 without it."""
    tcp: tuple[str, ...] = ()
    http3: tuple[IPAddress, ...] = ()  # where UDP port 443 is opened too, if this HAProxy has QUIC
    access_log: bool = False  # send the lines of services that ask for it to the socket `Layout.access_log`

    def __post_init__(self) -> None:
        for name in (*self.http, *self.tls, *self.tcp):
            if not _BIND_NAME.match(name):
                raise ServiceRefusedError(f"front end: bind name {name!r} is not 1 to 32 of A-Z, 0-9 and `_`")
        if not self.http and not self.tls:
            raise ServiceRefusedError("front end: neither http nor tls names a socket")
        if (self.tls or self.http3) and self.crt_list is None:
            raise ServiceRefusedError("front end: tls needs crt_list, a file that names the certificates")


@dataclass(frozen=True, slots=True)
class Tuning:
    """`threads`: None is as many as HAProxy may run on. `hard_stop_s`: how long an old worker may outlive a reload."""

    threads: int | None = None
    hard_stop_s: int = 3600


def is_host(text: str) -> bool:
    """Whether `text` is an exact host name as the front end compares it: lower case, no port, no trailing dot."""
    return len(text) <= MAX_HOST and _HOST.match(text) is not None


def _check_common(service: Service) -> None:
    if not is_token(service.id):
        raise ServiceRefusedError(f"service {service.id!r}: an id is 1 to 31 of a-z, 0-9 and `-`, not led by `-`")
    if not 0 <= service.log_one_in <= MAX_SAMPLE:
        raise ServiceRefusedError(
            f"service {service.id}: log_one_in {service.log_one_in} is not from 0 to {MAX_SAMPLE}"
        )
    names = [server.name for server in service.servers]
    if len(set(names)) != len(names):
        raise ServiceRefusedError(f"service {service.id}: two servers have the same id")
    for source in service.sources:
        try:
            parse_network(source)
        except AddressRefusedError as error:
            raise ServiceRefusedError(f"service {service.id}: sources: {error}") from error


def _check_authority(service: HttpService) -> None:
    """A file of authorities that OpenSSL cannot read would keep HAProxy from starting."""
    if not service.options.upstream.ca:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=service.options.upstream.ca)
    except (ssl.SSLError, ValueError) as error:
        raise ServiceRefusedError(f"service {service.id}: options.upstream.ca: not certificates ({error})") from error
