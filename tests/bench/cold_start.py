"""How a gateway that has never been there starts into a large fleet, and what the signatures cost of that."""

import asyncio
import math
import os
import re
import shutil
import statistics
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench.crowd import ACTOR, bus_of, grow, grow_services, in_control, wait_applied
from bench.fleet_size import MANY
from bench.harness import Figure, progress, ratio
from bench.stage import Stage
from kakuremichi.bus.port import Message
from kakuremichi.bus.topology import PORTAL
from kakuremichi.dataplane.links.desired import ROUTE_PROTOCOL
from kakuremichi.dataplane.nftables.device import TABLE_NAME
from kakuremichi.lab import namespaces
from kakuremichi.lab.record import start_time
from kakuremichi.model.ids import NodeId
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import decode_any
from kakuremichi.wire.requests import AnyReport, Report
from kakuremichi_portal.registry import Registry

STARTS = 3
START_S = 60.0
COLD, WARM = "gw3", "gw1"
POOL_FEED = "feed.pool.default"
SIGNATURES = Path(__file__).with_name("signatures")
LEAST_CHECKS = 2 * MANY  # of each agent a certificate by the trust keys and an announcement by itself


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
        starts.append(await start_cold(stage))
        progress(f"cold start {number + 1} of {STARTS}: {starts[-1].seconds:.2f} s, {starts[-1].memory_mib:.0f} MiB")
    seconds = [start.seconds for start in starts]
    memory = [start.memory_mib for start in starts]
    note = f"{MANY} agents, {MANY} routes to them, {stage.crowd_services} HTTP services; enrolment included"
    return [
        Figure("cold_start_2000_agents", statistics.median(seconds), seconds, note),
        Figure("cold_start_2000_agents_memory", max(memory), memory, note),
    ]


async def verified_ratio(stage: Stage) -> list[Figure]:
    """The same start ÷ one in which every signature counts as valid; pairs in turn, with hardly a service to hide in.

    The checks are counted in both, so a patch that missed them, or a start that skipped some, gives no value.
    """
    await stage.nodes()
    await grow(stage, MANY - 1)
    checks: dict[bool, list[int]] = {True: [], False: []}
    seconds: dict[bool, list[float]] = {True: [], False: []}

    async def take(checked: bool) -> float:
        asked = stage.directory / "signatures"
        asked.unlink(missing_ok=True)
        start = await start_cold(stage, _signature_env(asked, checked))
        checks[checked].append(asked.stat().st_size)
        seconds[checked].append(start.seconds)
        return start.seconds

    figure = await ratio("cold_start_verified_ratio", partial(take, True), partial(take, False))
    fewest = min(*checks[True], *checks[False])
    if fewest < LEAST_CHECKS:
        raise RuntimeError(f"gateway {COLD}: {fewest} signatures asked for, at least {LEAST_CHECKS} expected")
    verified, unverified = (statistics.median(seconds[checked]) for checked in (True, False))
    counted = " and ".join(f"{statistics.median(checks[checked]):.0f}" for checked in (True, False))
    note = f"{verified:.2f} s ÷ {unverified:.2f} s, {counted} signatures, {stage.crowd_services} HTTP services"
    return [replace(figure, note=note)]


def _signature_env(asked: Path, checked: bool) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(SIGNATURES), os.environ.get("PYTHONPATH", ""))))
    mode = "check" if checked else "skip"
    return {"PYTHONPATH": path, "KAKUREMICHI_BENCH_SIGNATURES": mode, "KAKUREMICHI_BENCH_SIGNATURES_FILE": str(asked)}


async def start_cold(stage: Stage, env: Mapping[str, str] | None = None) -> Start:
    """Remove COLD from the fleet and start it as a new one; RuntimeError if its routes are not those of MANY agents."""
    await _forget(stage)
    listening = threading.Event()
    heard = asyncio.create_task(in_control(stage, lambda: _hear_applied(stage, listening)))
    await asyncio.to_thread(listening.wait, START_S)
    await stage.fleet.start_gateway(COLD, {**stage.gateway_env, **(env or {})})
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
            report: Report = decode_any(message.data, AnyReport, name="report")
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
