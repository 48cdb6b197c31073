"""The portal's API: reads and writes per second over a few keep-alive connections, and what tracing costs them."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

from bench.crowd import in_control
from bench.harness import Figure, percentile, progress, ratio
from bench.http_line import Door, HttpLine
from bench.stage import SITE, Stage
from kakuremichi.fleet.lab_fleet import GATEWAYS
from kakuremichi.runtime.telemetry import TRACE_FILE, TRACES
from support.processes import processes_with

Work = Callable[[HttpLine, int, float], Awaitable[list[float]]]

LINES = 16
SECONDS = 6.0
WARM_UP_S = 1.0
PAIRS = 5


async def measure(stage: Stage) -> list[Figure]:
    """As a server has it: traces of changes go to the portal, no files are written, the nodes are elsewhere."""
    await stage.nodes()
    async with as_deployed(stage), in_line(stage) as door:
        for name in (*GATEWAYS, SITE):
            await stage.fleet.units.stop(name)  # nodes have machines of their own; they are started again below
        await in_control(stage, lambda: write_for(door, WARM_UP_S))
        reads = await in_control(stage, lambda: read_for(door, SECONDS))
        writes = await in_control(stage, lambda: write_for(door, SECONDS))
    return [*figures("read", reads), *figures("write", writes)]


async def tracing(stage: Stage) -> list[Figure]:
    """Changes per second with the traces of changes ÷ with none, gateways at work on every change."""
    await stage.nodes()

    async def changes_with(setting: str) -> float:
        async with as_deployed(stage, setting), in_line(stage) as door:
            await in_control(stage, lambda: write_for(door, WARM_UP_S))
            samples = await in_control(stage, lambda: write_for(door, SECONDS))
        return len(samples) / SECONDS

    name = "tracing_changes_ratio"
    return [await ratio(name, lambda: changes_with("changes"), lambda: changes_with("off"), pairs=PAIRS)]


def figures(what: str, samples: list[float]) -> list[Figure]:
    ms = [sample * 1000 for sample in samples]
    shared = "portal, registry, NATS, PostgreSQL and client share the cores"
    note = f"{LINES} connections over TLS; {shared}; p50 {percentile(ms, 50):.1f} ms"
    return [
        Figure(f"api_{what}s_per_second", len(samples) / SECONDS, note=note),
        Figure(f"api_{what}_p99", percentile(ms, 99), ms),
    ]


@asynccontextmanager
async def in_line(stage: Stage) -> AsyncIterator[Door]:
    """The services that are read and written, made for it and taken away."""
    door = Door.of(stage)
    names = [f"api-{number}" for number in range(LINES)]

    def make() -> None:
        with stage.fleet.api() as api:
            for name in names:
                api.call("PUT", f"/services/{name}", body_of(name, 9000))

    def remove() -> None:
        with stage.fleet.api() as api:
            for name in names:
                api.delete(f"/services/{name}")

    await asyncio.to_thread(make)
    try:
        yield door
    finally:
        await asyncio.to_thread(remove)


def body_of(name: str, port: int) -> dict[str, object]:
    return {"kind": "tcp", "port": 7300 + int(name.rpartition("-")[2]), "targets": [{"agent": SITE, "port": port}]}


async def read_for(door: Door, seconds: float) -> list[float]:
    async def read(line: HttpLine, number: int, until: float) -> list[float]:
        samples = []
        while time.monotonic() < until:
            took, _ = await line.call("GET", f"/services/api-{number}")
            samples.append(took)
        return samples

    return await _all_lines(door, seconds, read)


async def write_for(door: Door, seconds: float) -> list[float]:
    async def write(line: HttpLine, number: int, until: float) -> list[float]:
        samples, name = [], f"api-{number}"
        ports: Iterator[int] = itertools.cycle(range(9001, 9999))
        while time.monotonic() < until:
            took, _ = await line.call("PUT", f"/services/{name}", body_of(name, next(ports)))
            samples.append(took)
        return samples

    return await _all_lines(door, seconds, write)


async def _all_lines(door: Door, seconds: float, work: Work) -> list[float]:
    lines = [await HttpLine.open(door) for _ in range(LINES)]
    until = time.monotonic() + seconds
    try:
        found = await asyncio.gather(*(work(line, number, until) for number, line in enumerate(lines)))
    finally:
        for line in lines:
            line.close()
    return [sample for samples in found for sample in samples]


@asynccontextmanager
async def as_deployed(stage: Stage, setting: str = "changes") -> AsyncIterator[None]:
    """Services and nodes without files of spans; `setting` says which spans go to the portal."""
    async with processes_with(stage.fleet, lambda _unit: {TRACES: setting}, without=frozenset({TRACE_FILE})):
        progress(f"processes started anew, traces: {setting}")
        yield
