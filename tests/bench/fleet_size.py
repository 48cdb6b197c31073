"""What a change costs with few agents and with many, and how a gateway starts into a large fleet."""

import asyncio
import math
import os
import re
import shutil
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from bench.changes import WARM_UP, Change, http_requests, make_changes, show
from bench.crowd import ACTOR, bus_of, grow, grow_services, in_control, wait_applied
from bench.harness import Figure, progress
from bench.spans import SPANS_S, read_traces
from bench.stage import Stage
from kakuremichi.bus.port import Message
from kakuremichi.bus.topology import PORTAL
from kakuremichi.dataplane.links.desired import ROUTE_PROTOCOL
from kakuremichi.dataplane.nftables.device import TABLE_NAME
from kakuremichi.lab import namespaces
from kakuremichi.lab.record import start_time
from kakuremichi.model.ids import NodeId
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import decode
from kakuremichi.wire.requests import Report
from kakuremichi_portal.registry import Registry

FEW, MANY = 10, 2000
COUNT, BLOCK = 60, 12
STARTS = 3
START_S = 60.0
COLD, WARM = "gw3", "gw1"
POOL_FEED = "feed.pool.default"


async def one_change(stage: Stage) -> list[Figure]:
    """p50 until applied on three gateways with MANY agents ÷ with FEW. One of them is real, the target is there."""
    await stage.nodes()
    await grow(stage, FEW - 1)
    few = await asyncio.to_thread(make_changes, stage, http_requests(COUNT + WARM_UP, name="few"))
    await grow(stage, MANY - 1)
    many = await asyncio.to_thread(make_changes, stage, http_requests(COUNT + WARM_UP, name="many"))
    await asyncio.sleep(SPANS_S)
    traces = read_traces(stage.directory)
    show(f"{FEW} agents", few, traces)
    show(f"{MANY} agents", many, traces)
    small, large = _p50(few), _p50(many)
    note = f"p50 {large:.1f} ms with {MANY} agents, {small:.1f} ms with {FEW}"
    samples = [_p50(block) / small for block in _blocks(many)]
    return [Figure("one_change_2000_agents_ratio", large / small, samples, note)]


def _p50(changes: list[Change]) -> float:
    return statistics.median(change.ms for change in changes)


def _blocks(changes: list[Change]) -> list[list[Change]]:
    return [changes[start : start + BLOCK] for start in range(0, len(changes), BLOCK)]


@dataclass(frozen=True, slots=True)
class Start:
    """One cold start: seconds from exec to the report that everything is applied, peak resident memory in MiB."""

    seconds: float
    memory_mib: float


async def cold_start(stage: Stage) -> list[Figure]:
    """A gateway that has never been there: new name on disk, new interface, new HAProxy, no last-known-good."""
    await stage.nodes()
    await grow(stage, MANY - 1)
    await grow_services(stage, MANY - 1)
    starts = []
    for number in range(STARTS):
        starts.append(await _start(stage))
        progress(f"cold start {number + 1} of {STARTS}: {starts[-1].seconds:.2f} s, {starts[-1].memory_mib:.0f} MiB")
    seconds = [start.seconds for start in starts]
    memory = [start.memory_mib for start in starts]
    note = f"{MANY} agents, {MANY} routes to them, {stage.crowd_services} HTTP services; enrolment included"
    return [
        Figure("cold_start_2000_agents", statistics.median(seconds), seconds, note),
        Figure("cold_start_2000_agents_memory", max(memory), memory, note),
    ]


async def _start(stage: Stage) -> Start:
    await _forget(stage)
    listening = threading.Event()
    heard = asyncio.create_task(in_control(stage, lambda: _hear_applied(stage, listening)))
    await asyncio.to_thread(listening.wait, START_S)
    await stage.fleet.start_gateway(COLD)
    pid = (await stage.fleet.units.status())[COLD].pid
    if pid is None:
        raise RuntimeError(f"gateway {COLD}: does not run, see {stage.fleet.node_host(COLD).log('gateway')}")
    seconds = await heard - _began(pid)
    start = Start(seconds, _peak_mib(pid))
    await asyncio.to_thread(wait_applied, stage)
    _check(stage)
    return start


async def _forget(stage: Stage) -> None:
    """Take the gateway out of the fleet, with its processes, its interface, its table and its folder."""
    fleet = stage.fleet
    for unit in (COLD, f"haproxy-{COLD}", f"wg-{COLD}"):
        await fleet.units.stop(unit)
    api = fleet.api()
    api.delete(f"/gateways/{COLD}")
    api.close()
    shutil.rmtree(fleet.node_host(COLD).directory)
    namespaces.nft(stage.lab.namespace(COLD), f"delete table inet {TABLE_NAME}\n")


async def _hear_applied(stage: Stage, listening: threading.Event) -> float:
    """The moment, on the clock since boot, of the first report that says all of the pool's feed is applied."""
    done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    async with bus_of(stage, PORTAL) as bus:
        warm = await Registry(bus).node(ACTOR, "gateway", NodeId(WARM))
        wanted = dict(warm.cursors)[POOL_FEED] if warm else math.inf

        async def hear(message: Message) -> None:
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            report = decode(message.data, Report)
            cursors = {cursor.feed: cursor.feed_seq for cursor in report.cursors}
            if not done.done() and not report.errors and cursors.get(POOL_FEED, 0) >= wanted:
                done.set_result(now)

        await bus.subscribe(subjects.report(NodeId(COLD)), hear)
        listening.set()
        async with asyncio.timeout(START_S):
            return await done


def _began(pid: int) -> float:
    """When the process began, in seconds since boot; the kernel tells it in hundredths."""
    ticks = start_time(pid)
    if ticks is None:
        raise RuntimeError(f"process {pid}: it has ended")
    return ticks / os.sysconf("SC_CLK_TCK")


def _peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[0]) / 1024


def _check(stage: Stage) -> None:
    """What the report said is in the kernel."""
    routes = stage.lab.run(COLD, ["ip", "route", "show", "proto", str(ROUTE_PROTOCOL)], check=True).stdout
    if routes.count("\n") != MANY:
        raise RuntimeError(f"gateway {COLD}: reported all as applied, but has {routes.count(chr(10))} routes")
