"""One service as text: its backend and its entries in the route maps. Pure."""

from collections.abc import Iterable, Mapping

from kakuremichi.dataplane.haproxy.commands import server_words
from kakuremichi.dataplane.haproxy.config import Settings
from kakuremichi.dataplane.haproxy.desired import HttpService, Server, Service
from kakuremichi.dataplane.haproxy.diff import Route, parse_route
from kakuremichi.dataplane.haproxy.http_rules import http_rules
from kakuremichi.dataplane.haproxy.naming import STREAM_FIRST, RouteMap, backend_name, key_in, place
from kakuremichi.dataplane.haproxy.stream_rules import stream_rules


def rules_of(service: Service, settings: Settings) -> str:
    """The lines of its options; "" if it asks for nothing that servers and maps cannot say."""
    capabilities = settings.capabilities
    if isinstance(service, HttpService):
        lines = http_rules(service, tls=bool(settings.frontend.tls), capabilities=capabilities)
    else:
        lines = stream_rules(service, capabilities)
    return "".join(f"  {line}\n" for line in lines)


def render_backend(number: int, servers: Iterable[Server] = (), rules: str = "") -> str:
    """Rules come first, servers last: the latter are what changes at run time."""
    head = f"backend {backend_name(number)} from {'stream' if number >= STREAM_FIRST else 'base'}\n"
    return head + rules + "".join(f"  server {server.name} {' '.join(server_words(server))}\n" for server in servers)


def render_route(key: str, route: Route) -> str:
    """The line of a route key in its map."""
    return f"{place(key)[1]} {route}\n"


def render_maps(routes: Mapping[str, Route]) -> dict[RouteMap, str]:
    lines: dict[RouteMap, list[str]] = {route_map: [] for route_map in RouteMap}
    for key, route in routes.items():
        lines[place(key)[0]].append(render_route(key, route))
    return {route_map: "".join(held) for route_map, held in lines.items()}


def parse_maps(maps: Mapping[RouteMap, str]) -> dict[str, Route]:
    """The routes of map files by their keys; lines that are not ours are left out."""
    routes: dict[str, Route] = {}
    for route_map, text in maps.items():
        for line in text.splitlines():
            written, _, value = line.partition(" ")
            if (route := parse_route(value)) is not None:
                routes.setdefault(key_in(route_map, written), route)  # as in HAProxy, the first of two wins
    return routes
