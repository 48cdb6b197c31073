"""Long texts out of many small ones, kept in pieces: one change joins its own piece anew, not everything."""

import zlib
from collections.abc import Iterator

from kakuremichi.dataplane.haproxy.diff import Route
from kakuremichi.dataplane.haproxy.naming import RouteMap, place
from kakuremichi.dataplane.haproxy.rendering import render_backend, render_route

_SPAN = 128  # backends in one piece
_PIECES = 128  # of one route map


class Backends:
    """The text of every backend of the pools, an empty one where nothing was put."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._joined: dict[int, tuple[range, str]] = {}  # by the first number a piece could have

    def put(self, number: int, text: str) -> None:
        self._texts[number] = text
        self._joined.pop(number - number % _SPAN, None)

    def drop(self, number: int) -> None:
        if self._texts.pop(number, None) is not None:
            self._joined.pop(number - number % _SPAN, None)

    def pieces(self, numbers: range) -> Iterator[str]:
        """The backends with these numbers, in their order."""
        for first in range(numbers.start - numbers.start % _SPAN, numbers.stop, _SPAN):
            part = range(max(first, numbers.start), min(first + _SPAN, numbers.stop))
            known = self._joined.get(first)
            if known is None or known[0] != part:  # other numbers after the pool has grown
                known = part, "".join(self._texts.get(number) or render_backend(number) for number in part)
                self._joined[first] = known
            yield known[1]


class Maps:
    """The lines of the route maps. In which order they stand says nothing: HAProxy looks them up in trees."""

    def __init__(self) -> None:
        self._lines: dict[tuple[RouteMap, int], dict[str, str]] = {}
        self._joined: dict[tuple[RouteMap, int], str] = {}

    def put(self, key: str, route: Route) -> None:
        piece = _piece_of(key)
        self._lines.setdefault(piece, {})[key] = render_route(key, route)
        self._joined.pop(piece, None)

    def drop(self, key: str) -> None:
        piece = _piece_of(key)
        if self._lines.get(piece, {}).pop(key, None) is not None:
            self._joined.pop(piece, None)

    def texts(self) -> dict[RouteMap, str]:
        for piece, lines in self._lines.items():
            if piece not in self._joined:
                self._joined[piece] = "".join(lines.values())
        pieces = sorted(self._joined)
        return {route_map: "".join(self._joined[at] for at in pieces if at[0] is route_map) for route_map in RouteMap}


def _piece_of(key: str) -> tuple[RouteMap, int]:
    return place(key)[0], zlib.crc32(key.encode()) % _PIECES
