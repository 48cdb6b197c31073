"""The form of what is to be published: all that can be said without looking at the database. Pure."""

from dataclasses import dataclass

import msgspec
from msgspec import UNSET

from kakuremichi.model.addresses import AddressRefusedError, parse_network
from kakuremichi.model.ids import ServiceId
from kakuremichi.model.options import (
    MAX_OPTIONS_BYTES,
    NO_OPTIONS,
    OptionRefusedError,
    Options,
    check_options,
    check_path,
    ordered,
)
from kakuremichi.wire.commands import PublishService, TargetInput
from kakuremichi.wire.records import Proto
from kakuremichi_registry.contexts import ServiceRow
from kakuremichi_registry.hosts import HostRefusedError, check_published_host
from kakuremichi_registry.refusal import invalid
from kakuremichi_registry.targets import check_target_address, has_ipv6, is_name

GATEWAY_PORTS = {80: "HTTP", 443: "HTTPS", 51820: "WireGuard"}  # the gateways' own listeners
MAX_SOURCES = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """A command whose form is sound: every value canonical, ports filled in."""

    service_id: ServiceId
    target: TargetInput
    address: str
    row: ServiceRow  # without targets and sequence

    @property
    def literals(self) -> list[str]:
        """Its address as a list, empty if it is a name: that the database knows nothing of."""
        return [] if is_name(self.address) else [self.address]

    @property
    def proto(self) -> Proto:
        """On the tunnel and at the site."""
        return "udp" if self.row.kind == "udp" else "tcp"

    @property
    def target_id(self) -> str:
        return f"{self.service_id}-1"  # one target for now


def check_form(command: PublishService) -> Wanted:
    """All that can be said without looking at the database; a :class:`Refusal` names the field."""
    kind = command.kind
    if kind == "tls":
        raise invalid("kind", "kind: tls is not carried by this version's gateways; publish it as tcp, or as http")
    if kind == "http":
        host, (first, last), sources = _host(command), _no_ports(command), _sources(command)
    else:
        host, (first, last), sources = _no_host(command), _ports(command), _sources(command)
    path = _path(command)
    if len(command.targets) != 1:
        raise invalid("targets", f"targets: {len(command.targets)} are given, exactly one is needed")
    target = command.targets[0]
    address = check_target_address(target.address, "targets.address")
    _check_family(command, address)
    row = ServiceRow(
        service_id=command.service_id, pool=command.pool, kind=kind, host=host, path=path,
        first_port=first, last_port=last, sources=sources, updated_seq=0, options=_options(command),
    )  # fmt: skip
    return Wanted(command.service_id, _target_port(target, row), address, row)


def _check_family(command: PublishService, address: str) -> None:
    ipv6 = command.options is not UNSET and command.options.upstream.ipv6
    if ipv6 and not is_name(address) and not has_ipv6(address):
        raise invalid("options.upstream.ipv6", f"options.upstream.ipv6: target address {address} is IPv4")


def _host(command: PublishService) -> str:
    try:
        return check_published_host(command.host)
    except HostRefusedError as error:
        raise invalid("host", str(error)) from error


def _no_host(command: PublishService) -> str:
    if command.host:
        raise invalid("host", f"host: {command.kind} services have none; visitors come by port")
    return ""


def _no_ports(command: PublishService) -> tuple[int, int]:
    if command.first_port or command.last_port:
        raise invalid("first_port", f"port: {command.kind} services have none of their own; visitors come by host name")
    return 0, 0


def _ports(command: PublishService) -> tuple[int, int]:
    first, last = command.first_port, command.last_port or command.first_port
    for field, port in (("first_port", first), ("last_port", last)):
        if not 1 <= port <= 65535:
            raise invalid(field, f"port {port}: not a number from 1 to 65535")
    if last < first:
        raise invalid("last_port", f"ports {first}-{last}: the last port is below the first")
    for port, owner in GATEWAY_PORTS.items():
        if first <= port <= last:
            raise invalid("first_port", f"port {port}: the gateways' own {owner} listener")
    return first, last


def _sources(command: PublishService) -> tuple[str, ...]:
    if len(command.sources) > MAX_SOURCES:
        raise invalid("sources", f"sources: {len(command.sources)} networks, at most {MAX_SOURCES} are allowed")
    networks = set()
    for text in command.sources:
        if "%" in text:
            raise invalid("sources", f"sources: network {text!r}: a zone id means nothing to anybody else")
        try:
            networks.add(parse_network(text))
        except AddressRefusedError as error:
            raise invalid("sources", f"sources: {error}") from error
    return tuple(sorted(map(str, networks)))


def _path(command: PublishService) -> str:
    if command.path and command.kind != "http":
        raise invalid("path", f"path: {command.kind} services have none")
    try:
        check_path(command.path)
    except OptionRefusedError as error:
        raise invalid("path", str(error)) from error
    return command.path


def _options(command: PublishService) -> Options:
    options = NO_OPTIONS if command.options is UNSET else command.options
    try:
        check_options(command.kind, command.path, options)
    except OptionRefusedError as error:
        raise invalid(error.field, str(error)) from error
    if options.upstream.proxy_protocol and command.last_port > command.first_port:
        raise invalid("options.upstream.proxy_protocol", "proxy_protocol: a port range is carried without it")
    if len(msgspec.json.encode(options)) > MAX_OPTIONS_BYTES:
        raise invalid("options", f"options: more than {MAX_OPTIONS_BYTES} bytes as JSON")
    return ordered(options)


def _target_port(target: TargetInput, row: ServiceRow) -> TargetInput:
    if row.last_port > row.first_port:
        if target.port not in (0, row.first_port):
            raise invalid(
                "targets.port",
                f"target port {target.port}: a range keeps its numbers, so it is {row.first_port} or left out",
            )
        return TargetInput(agent=target.agent, address=target.address, port=row.first_port)
    if not 1 <= target.port <= 65535:
        raise invalid("targets.port", f"target port {target.port}: not a number from 1 to 65535")
    return target
