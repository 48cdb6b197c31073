"""A HAProxy in memory for tests: it refuses, duplicates and forgets as the real one does."""

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from kakuremichi.dataplane.haproxy.client import ProxyUnavailableError
from kakuremichi.dataplane.haproxy.commands import Running
from kakuremichi.dataplane.haproxy.desired import Server
from kakuremichi.dataplane.haproxy.diff import (
    Actual,
    ActualServer,
    AddMap,
    AddServer,
    CutServer,
    DelMap,
    EnableServer,
    MapStep,
    MoveServer,
    RemoveServer,
    Route,
    ServerStep,
    SetMap,
    Step,
    WeighServer,
)
from kakuremichi.dataplane.haproxy.files import Files
from kakuremichi.dataplane.haproxy.naming import parse_backend
from kakuremichi.dataplane.haproxy.proxy import Decide, Outcome, ProxyRefusedError
from kakuremichi.dataplane.haproxy.rendering import parse_maps

_BACKEND = re.compile(r"^backend (\S+) from \w+\n((?:  .*\n)*)", re.MULTILINE)
_SERVER = re.compile(r"^  server (\S+) (?:\[(.+)\]|([\d.]+)):(\d+) weight (\d+)", re.MULTILINE)
_DESCRIPTION = re.compile(r"^  description (\S+)$", re.MULTILINE)


class MemoryProxy:
    """`connected` are (number, name) of servers with open connections; `failing` maps steps to the error they get."""

    def __init__(self) -> None:
        self.files: Files | None = None
        self.connected: set[tuple[int, str]] = set()
        self.failing: dict[Step, str] = {}
        self.applied: list[Step] = []
        self.reloads = 0
        self.pid = 0  # 0: not running
        self._description = ""
        self.rules: dict[int, str] = {}  # of each backend that there is
        self.refused = ""  # a configuration that holds this text is refused
        self._routes: list[tuple[str, Route]] = []
        self._servers: dict[int, dict[str, ActualServer]] = {}

    def start(self) -> None:
        """As after a crash: another process, which knows what the files say."""
        if self.files is None:
            raise ProxyUnavailableError("haproxy.cfg: there is none")
        self.pid += 1
        self.connected.clear()
        blocks = {parse_backend(name): text for name, text in _BACKEND.findall(self.files.config)}
        self.rules = {number: _rules_in(text) for number, text in blocks.items() if number is not None}
        self._servers = {number: _servers_in(blocks[number]) for number in self.rules}
        self._routes = list(parse_maps(self.files.maps).items())
        found = _DESCRIPTION.search(self.files.config)
        self._description = found[1] if found else ""

    def stop(self) -> None:
        self.pid, self._servers, self._routes = 0, {}, []

    async def running(self) -> Running:
        self._check_running()
        return Running(self.pid, self._description, stopping=False)

    async def read(self) -> Actual:
        self._check_running()
        held = {number: dict(servers) for number, servers in self._servers.items() if servers}
        return Actual(self._routes_of({key for key, _ in self._routes}), held)

    async def read_part(self, numbers: Collection[int], keys: Collection[str]) -> Actual:
        self._check_running()
        return Actual(self._routes_of(keys), {number: dict(self._servers.get(number, {})) for number in numbers})

    async def apply(self, steps: Sequence[Step]) -> tuple[Outcome, ...]:
        self._check_running()
        return tuple(Outcome(step, self._apply(step)) for step in steps)

    async def change(self, numbers: Collection[int], keys: Collection[str], decide: Decide) -> tuple[Outcome, ...]:
        return await self.apply(decide(await self.read_part(numbers, keys)))

    async def save(self, files: Files) -> None:
        self.files = files

    async def saved(self) -> Files | None:
        return self.files

    async def reload(self, files: Files) -> None:
        self._check_running()
        if self.refused and self.refused in files.config:
            raise ProxyRefusedError("reload: HAProxy refused the new configuration; see haproxy.log")
        self.files = files
        self.reloads += 1
        self.start()

    def _check_running(self) -> None:
        if not self.pid:
            raise ProxyUnavailableError("admin.sock: nobody answers")

    def _routes_of(self, keys: Collection[str]) -> dict[str, frozenset[Route | None]]:
        found = {key: frozenset(route for held, route in self._routes if held == key) for key in keys}
        return {key: routes for key, routes in found.items() if routes}

    def _apply(self, step: Step) -> str | None:
        self.applied.append(step)
        if step in self.failing:
            return self.failing[step]
        return self._apply_map(step) if isinstance(step, MapStep) else self._apply_server(step)

    def _apply_server(self, step: ServerStep) -> str | None:
        match step:
            case AddServer(number, server):
                return self._add(number, server)
            case RemoveServer(number, name, cut):
                return self._remove(number, name, cut=cut)
            case CutServer(number, name):
                self.connected.discard((number, name))
                return self._change(number, name, ready=False)
            case EnableServer(number, name):
                return self._change(number, name, ready=True)
            case MoveServer(number, server):
                return self._change(number, server.name, address=str(server.address), port=server.port)
            case WeighServer(number, server):
                return self._change(number, server.name, weight=server.weight)

    def _apply_map(self, step: MapStep) -> str | None:
        match step:
            case AddMap(key, route):
                self._routes.append((key, route))  # never a look at what is there
            case SetMap(key, route):
                if all(held != key for held, _ in self._routes):
                    return "entry not found."
                self._routes = [(held, route if held == key else other) for held, other in self._routes]
            case DelMap(key):
                self._routes = [(held, route) for held, route in self._routes if held != key]
        return None

    def _add(self, number: int, server: Server) -> str | None:
        if number not in self.rules:
            return "No such backend."
        if server.name in self._servers[number]:
            return "Already exists a server with the same name in backend."
        self._servers[number][server.name] = ActualServer(str(server.address), server.port, server.weight, ready=True)
        return None

    def _remove(self, number: int, name: str, *, cut: bool) -> str | None:
        if name not in self._servers.get(number, {}):
            return None
        self._change(number, name, ready=False)
        if cut:
            self.connected.discard((number, name))
        if (number, name) in self.connected:
            return "Server still has connections attached to it, cannot remove it."
        del self._servers[number][name]
        return None

    def _change(self, number: int, name: str, **fields: Any) -> str | None:
        held = self._servers.get(number, {}).get(name)
        if held is None:
            return "No such server."
        self._servers[number][name] = replace(held, **fields)
        return None


def _servers_in(text: str) -> dict[str, ActualServer]:
    return {
        name: ActualServer(str(ip_address(v6 or v4)), int(port), int(weight), ready=True)
        for name, v6, v4, port, weight in _SERVER.findall(text)
    }


def _rules_in(text: str) -> str:
    return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("  server "))
