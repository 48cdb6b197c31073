"""What things are called in HAProxy: numbered backends, and the maps in which a route key stands. Pure."""

from enum import StrEnum

STREAM_FIRST = 1_000_000
"""Backends of TCP services are numbered from here on, so that one number names one backend."""

_MAX_DIGITS = 6


class RouteMap(StrEnum):
    """The files `<value>.map`. Which one a route key belongs to can be read off the key."""

    HOSTS = "routes"  # app.test, *.app.test
    SPLITS = "splits"  # app.test/: paths of this host are routed apart, so its requests have to be looked at closer
    PATHS = "paths"  # app.test/health, the whole path
    PREFIXES = "prefixes"  # app.test/api/, the beginning of a path
    PORTS = "ports"  # :5006, a TCP port


def place(key: str) -> tuple[RouteMap, str]:
    """The map that a route key belongs to, and how it is written there."""
    if key.startswith(":"):
        return RouteMap.PORTS, key[1:]
    host, slash, path = key.partition("/")
    if not slash:
        return RouteMap.HOSTS, key
    if not path:
        return RouteMap.SPLITS, host
    return (RouteMap.PREFIXES if path.endswith("/") else RouteMap.PATHS), key


def key_in(route_map: RouteMap, written: str) -> str:
    """The route key of an entry; the opposite of `place`."""
    match route_map:
        case RouteMap.PORTS:
            return f":{written}"
        case RouteMap.SPLITS:
            return f"{written}/"
        case _:
            return written


def backend_name(number: int) -> str:
    """`p7` for HTTP, `t7` for TCP."""
    return f"t{number - STREAM_FIRST}" if number >= STREAM_FIRST else f"p{number}"


def parse_backend(name: str) -> int | None:
    """The number of a backend of the pools; None for any other backend."""
    kind, digits = name[:1], name[1:]
    if kind not in {"p", "t"} or len(digits) > _MAX_DIGITS or not digits.isascii() or not digits.isdigit():
        return None
    return int(digits) + (STREAM_FIRST if kind == "t" else 0)
