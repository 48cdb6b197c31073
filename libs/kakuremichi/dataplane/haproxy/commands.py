"""Steps as HAProxy's words, and its replies as values. Pure. The replies were taken from 2.6.12."""

import re
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from kakuremichi.dataplane.haproxy.client import Command, ProxyError
from kakuremichi.dataplane.haproxy.desired import Server
from kakuremichi.dataplane.haproxy.diff import (
    ActualServer,
    AddMap,
    AddServer,
    CutServer,
    DelMap,
    EnableServer,
    MoveServer,
    RemoveServer,
    Route,
    SetMap,
    Step,
    WeighServer,
    parse_route,
)
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.naming import RouteMap, backend_name, key_in, parse_backend, place

# A server added at run time inherits nothing from default-server. Without both words HAProxy keeps no idle
# connection to it, which costs two thirds of the requests per second.
KEEP_CONNECTIONS: Command = ("pool-max-conn", "-1", "pool-purge-delay", "5s")

_DONE = ("", "New server registered.", "Server deleted.")
_MOVED = ("IP changed", "no need to change the addr", "port changed")
_STILL_CONNECTED = "Server still has connections"
_MAINTENANCE = 0x01 | 0x02 | 0x04 | 0x20  # srv_admin_state: forced, inherited, by configuration, by resolution
_NO_SUCH_MAP = "Unknown map identifier"  # that of a version before ours, which a reload will replace
_FOUND = re.compile(r'\bfound=yes\b.*?\bkey="([^"]*)".*?\bvalue="([^"]*)"')


class Running(NamedTuple):
    """Which process answers. Another pid than before means that what was only set at run time is gone."""

    pid: int
    description: str  # of the configuration it has loaded, see config.describe
    stopping: bool


def endpoint(server: Server) -> str:
    return f"[{server.address}]:{server.port}" if server.address.version == 6 else f"{server.address}:{server.port}"


def server_words(server: Server) -> Command:
    """Everything after the name, alike in the file and at run time."""
    backup = ("backup",) if server.backup else ()
    return (endpoint(server), "weight", str(server.weight), *backup, *server.transport, *KEEP_CONNECTIONS)


def commands_of(step: Step, layout: Layout) -> tuple[Command, ...]:  # noqa: PLR0911  # one return for each kind
    """Maps are named by their paths, as in the configuration."""
    match step:
        case AddMap(key, route):
            return (("add", "map", *map_entry(key, layout), str(route)),)
        case SetMap(key, route):
            return (("set", "map", *map_entry(key, layout), str(route)),)
        case DelMap(key):
            return (("del", "map", *map_entry(key, layout)),)
        case AddServer(number, server):
            name = _name(number, server.name)
            return ("add", "server", name, *server_words(server)), ("enable", "server", name)
        case MoveServer(number, server):
            name = _name(number, server.name)
            return (("set", "server", name, "addr", str(server.address), "port", str(server.port)),)
        case WeighServer(number, server):
            return (("set", "server", _name(number, server.name), "weight", str(server.weight)),)
        case EnableServer(number, name):
            return (("set", "server", _name(number, name), "state", "ready"),)
        case RemoveServer(number, name, cut):
            return _removal(_name(number, name), cut=cut)
        case CutServer(number, name):
            return _stop(_name(number, name), cut=True)


def map_entry(key: str, layout: Layout) -> tuple[str, str]:
    """The map that holds a route key, and the key as it is written there."""
    route_map, written = place(key)
    return str(layout.map(route_map)), written


def _name(number: int, server: str) -> str:
    return f"{backend_name(number)}/{server}"


def _removal(name: str, *, cut: bool) -> tuple[Command, ...]:
    return *_stop(name, cut=cut), ("del", "server", name)


def _stop(name: str, *, cut: bool) -> tuple[Command, ...]:
    shut: tuple[Command, ...] = (("shutdown", "sessions", "server", name),) if cut else ()
    return ("set", "server", name, "state", "maint"), *shut


def fault_in(step: Step, replies: Sequence[str]) -> str | None:
    """What HAProxy objected to; None if the step is done. What is already gone counts as removed."""
    for reply in replies:
        if reply in _DONE or reply.startswith(_MOVED):
            continue
        if isinstance(step, RemoveServer | CutServer) and reply == "No such server.":
            return None
        if isinstance(step, DelMap) and reply == "Key not found.":
            return None
        return " ".join(reply.split())[:200]
    return None


def is_busy(fault: str) -> bool:
    """Whether a removal only has to wait for the last connections."""
    return fault.startswith(_STILL_CONNECTED)


def parse_running(reply: str) -> Running:
    """From `show info`."""
    values = dict(line.split(": ", 1) for line in reply.splitlines() if ": " in line)
    try:
        return Running(int(values["Pid"]), values.get("description", ""), values.get("Stopping", "0") != "0")
    except (KeyError, ValueError) as error:
        raise ProxyError(f"show info: no process id in {reply[:80]!r}") from error


def parse_map(reply: str, route_map: RouteMap = RouteMap.HOSTS) -> dict[str, frozenset[Route | None]]:
    """From `show map`: lines of reference, key, value. A map that the running configuration lacks is empty."""
    routes: dict[str, frozenset[Route | None]] = {}
    if reply.startswith(_NO_SUCH_MAP):
        return routes
    for line in reply.splitlines():
        reference, _, entry = line.partition(" ")
        written, _, value = entry.partition(" ")
        key = key_in(route_map, written)
        if not reference.startswith("0x"):
            raise ProxyError(f"show map: {' '.join(reply.split())[:120]}")
        found = frozenset((parse_route(value),))
        routes[key] = routes[key] | found if key in routes else found
    return routes


def parse_found(reply: str, written: str) -> frozenset[Route | None]:
    """From `get map`: empty if the key is unknown. HAProxy looks it up as it would for a visitor, so in a map of
    prefixes it may find a shorter one.
    """
    if reply.startswith(_NO_SUCH_MAP):
        return frozenset()
    if "found=" not in reply:
        raise ProxyError(f"get map: {' '.join(reply.split())[:120]}")
    return frozenset(parse_route(value) for key, value in _FOUND.findall(reply) if key == written)


def parse_servers(reply: str) -> dict[int, dict[str, ActualServer]]:
    """From `show servers state` (format 1) of one backend or of all; only numbered backends count."""
    lines = reply.splitlines()
    if lines[:1] != ["1"]:
        raise ProxyError(f"show servers state: {' '.join(reply.split())[:120]}")
    servers: dict[int, dict[str, ActualServer]] = {}
    for name, fields in _rows(lines[2:]):
        number = parse_backend(name)
        if number is not None:
            address = fields[4] if ":" not in fields[4] else str(ip_address(fields[4]))
            ready = not int(fields[6]) & _MAINTENANCE
            servers.setdefault(number, {})[fields[3]] = ActualServer(address, int(fields[18]), int(fields[7]), ready)
    return servers


def _rows(lines: Iterable[str]) -> Iterable[tuple[str, list[str]]]:
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 19:
            raise ProxyError(f"show servers state: a line of {len(fields)} columns")
        yield fields[1], fields
