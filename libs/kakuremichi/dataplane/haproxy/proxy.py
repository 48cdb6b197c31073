"""HAProxy as the reconciler sees it: read, apply steps, save files, reload. The real one and what both promise."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from kakuremichi.dataplane.haproxy import files as on_disk
from kakuremichi.dataplane.haproxy.client import (
    Command,
    Conversation,
    ProxyError,
    ProxyUnavailableError,
    RuntimeClient,
)
from kakuremichi.dataplane.haproxy.commands import (
    Running,
    commands_of,
    fault_in,
    map_entry,
    parse_found,
    parse_map,
    parse_running,
    parse_servers,
)
from kakuremichi.dataplane.haproxy.diff import Actual, ActualServer, Step
from kakuremichi.dataplane.haproxy.files import Files, Layout
from kakuremichi.dataplane.haproxy.naming import RouteMap, backend_name, place

_BATCH = 500  # steps; between batches other tasks get their turn
_POLL_S = 0.01
_START_S = 2.0
_MASTER = re.compile(r"^(\d+)\s+master\s+(\d+)(?:\s+\[failed: (\d+)\])?", re.MULTILINE)
_RELOAD_FAILED = "Success=0"
_WORKER = re.compile(r"^(\d+)\s+worker\s+0\s", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`error` None: done. The other steps of the batch were applied all the same."""

    step: Step
    error: str | None = None


Decide = Callable[[Actual], Sequence[Step]]
Ask = Callable[[Sequence[Command]], Awaitable[list[str]]]


class Proxy(Protocol):
    """Every method raises ProxyUnavailableError while nobody answers, ProxyError for an answer that makes no sense."""

    async def running(self) -> Running: ...

    async def read(self) -> Actual:
        """All routes and all numbered backends that have servers."""
        ...

    async def read_part(self, numbers: Collection[int], keys: Collection[str]) -> Actual:
        """Only these; a key without route and a backend without servers have no entry or an empty one."""
        ...

    async def apply(self, steps: Sequence[Step]) -> tuple[Outcome, ...]: ...

    async def change(self, numbers: Collection[int], keys: Collection[str], decide: Decide) -> tuple[Outcome, ...]:
        """Read these as `read_part` does, and apply at once what `decide` makes of them."""
        ...

    async def save(self, files: Files) -> None:
        """Keep what the next start shall load. Works without a running HAProxy."""
        ...

    async def saved(self) -> Files | None: ...

    async def reload(self, files: Files) -> None:
        """Save, then replace the worker. What was only set at run time is lost; returns when the new one answers.

        A configuration that HAProxy refuses raises ProxyError, the old worker goes on and the old files are restored.
        """
        ...


class Haproxy:
    """The real one, behind the sockets in its directory."""

    def __init__(self, layout: Layout, *, reload_timeout_s: float = 30.0) -> None:
        self._layout = layout
        self._client = RuntimeClient(layout.admin_socket)
        self._master = RuntimeClient(layout.master_socket)
        self._reload_timeout_s = reload_timeout_s

    async def running(self) -> Running:
        return parse_running((await self._client.execute([("show", "info")]))[0])

    async def read(self) -> Actual:
        maps = [("show", "map", str(self._layout.map(route_map))) for route_map in RouteMap]
        *routes, servers = await self._client.execute([*maps, ("show", "servers", "state")])
        # 10,000 services take 0.1 s to parse: in a thread, so that the event loop goes on.
        return await asyncio.to_thread(_parse_all, routes, servers)

    async def read_part(self, numbers: Collection[int], keys: Collection[str]) -> Actual:
        async with self._client.conversation() as talk:
            return await self._read_part(talk, numbers, keys)

    async def apply(self, steps: Sequence[Step]) -> tuple[Outcome, ...]:
        outcomes: list[Outcome] = []
        for start in range(0, len(steps), _BATCH):
            outcomes += await self._apply_batch(self._client.execute, steps[start : start + _BATCH])
        return tuple(outcomes)

    async def change(self, numbers: Collection[int], keys: Collection[str], decide: Decide) -> tuple[Outcome, ...]:
        # One connection for both: opening one costs as much as the commands of a change.
        async with self._client.conversation() as talk:
            steps = decide(await self._read_part(talk, numbers, keys))
            return tuple(await self._apply_batch(talk.ask, steps)) if steps else ()

    async def _read_part(self, talk: Conversation, numbers: Collection[int], keys: Collection[str]) -> Actual:
        commands: list[Command] = [("get", "map", *map_entry(key, self._layout)) for key in keys]
        commands += [("show", "servers", "state", backend_name(number)) for number in numbers]
        replies = await talk.ask(commands)
        found = {key: parse_found(reply, place(key)[1]) for key, reply in zip(keys, replies, strict=False)}
        servers: dict[int, dict[str, ActualServer]] = {number: {} for number in numbers}
        for reply in replies[len(keys) :]:
            servers.update(parse_servers(reply))
        return Actual({key: routes for key, routes in found.items() if routes}, servers)

    async def _apply_batch(self, ask: Ask, steps: Sequence[Step]) -> list[Outcome]:
        commands = [commands_of(step, self._layout) for step in steps]
        replies = iter(await ask([command for group in commands for command in group]))
        answered = [[next(replies) for _ in group] for group in commands]
        return [Outcome(step, fault_in(step, answers)) for step, answers in zip(steps, answered, strict=True)]

    async def save(self, files: Files) -> None:
        try:
            await asyncio.to_thread(on_disk.save, self._layout, files)
        except OSError as error:
            raise ProxyError(f"{error.filename or self._layout.directory}: not written ({error.strerror})") from error

    async def saved(self) -> Files | None:
        return await asyncio.to_thread(on_disk.load, self._layout)

    async def reload(self, files: Files) -> None:
        before = await self._settled_processes()
        previous = await self.saved()
        await self.save(files)
        try:
            await self._replace_worker(before)
        except ProxyError:
            if previous is not None:  # the next start of HAProxy must not meet what it has just refused
                await self.save(previous)
            raise

    async def _replace_worker(self, before: "_Processes") -> None:
        try:
            # From 2.7 on the master answers when it is over. From 3.1 on a second refusal is no more in its count.
            if (await self._master.ask_master(("reload",))).startswith(_RELOAD_FAILED):
                raise ProxyRefusedError(self._refused())
            async with asyncio.timeout(self._reload_timeout_s):
                while not await self._is_replaced(before):  # noqa: ASYNC110  # nothing tells us, only asking does
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise ProxyError(f"reload: no new worker within {self._reload_timeout_s:g} s") from error

    async def _is_replaced(self, before: "_Processes") -> bool:
        try:
            now = await self._processes()
            if now.master == before.master and now.failed > before.failed:
                raise ProxyRefusedError(self._refused())
            # Until it has handed over, the old worker still answers at the socket.
            return now.worker not in (None, before.worker) and (await self.running()).pid == now.worker
        except ProxyUnavailableError:  # the master replaces itself first
            return False

    def _refused(self) -> str:
        return f"reload: HAProxy refused the new configuration; see {self._layout.log.name}"

    async def _settled_processes(self) -> "_Processes":
        """At a start the worker answers a moment before its master does."""
        try:
            async with asyncio.timeout(_START_S):
                while True:
                    with suppress(ProxyUnavailableError):
                        return await self._processes()
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise ProxyUnavailableError(f"{self._layout.master_socket.name}: nobody answers") from error

    async def _processes(self) -> "_Processes":
        reply = await self._master.ask_master(("show", "proc"))
        if (master := _MASTER.search(reply)) is None:
            raise ProxyUnavailableError("master socket: it lists no master process")
        worker = _WORKER.search(reply)
        return _Processes(int(master[1]), int(master[3] or 0), int(worker[1]) if worker else None)


def _parse_all(replies: Sequence[str], servers: str) -> Actual:
    maps = [parse_map(reply, route_map) for route_map, reply in zip(RouteMap, replies, strict=True)]
    return Actual({key: routes for held in maps for key, routes in held.items()}, parse_servers(servers))


class ProxyRefusedError(ProxyError):
    """HAProxy did not accept the configuration."""


class _Processes(NamedTuple):
    """From `show proc`: the master and how many of its reloads failed; the newest worker, None while there is none."""

    master: int
    failed: int
    worker: int | None
