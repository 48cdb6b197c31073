"""One service against 10,000: gw1 has them all, gw2 was stopped before they came and carries on with what it had."""

import asyncio
import statistics
import time

from bench.changes import WARM_UP, http_requests, make_changes
from bench.cold_start import COLD, STARTS, start_cold
from bench.crowd import grow, grow_services, publish_tcp
from bench.fleet_size import MANY
from bench.harness import Figure, progress, ratio
from bench.proxy_protocol import NEW_EACH
from bench.stage import SITE, Stage, wait_until
from bench.web import SERVICE, reachable, requests_per_second, start_target
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.proxy import Haproxy
from kakuremichi.fleet.lab_fleet import PrivateService

SERVICES = 10_000
FULL, SMALL = "gw1", "gw2"
PAIRS, SECONDS = 5, 3
CHANGES, RELOADS = 24, 5
OFFLINE_S = 120.0  # a node counts as live for 90 s after its last report
L4 = PrivateService("bench-l4", SITE, SITE, SERVICE.address, SERVICE.port, public_port=8600)
NAMES = (
    "requests_10000_services_ratio",
    "connections_10000_services_ratio",
    "one_change_10000_services_ratio",
    "haproxy_reload_10000",
    "cold_start_10000_services",
    "cold_start_10000_services_memory",
)


async def measure(stage: Stage) -> list[Figure]:
    """On a stage of its own: there may be no other services, and SMALL does not come back."""
    stage.following = (FULL,)
    await stage.nodes(gateways=(FULL,))
    before = await change_p50(stage, "few")
    await start_target(stage, SITE, SERVICE.address)
    await stage.nodes(gateways=(SMALL,))
    for service in (SERVICE, L4):
        await stage.publish(service)
    for name in (FULL, SMALL):
        await reachable(stage, stage.lab.address(name), L4.public_port)
    await stage.fleet.units.stop(SMALL)
    await grow(stage, MANY - 1)
    await grow_services(stage, SERVICES)
    figures = [await rate_ratio(stage, NAMES[0], 80, "-H", f"Host: {SERVICE.host_name}")]
    await asyncio.to_thread(wait_until, f"gateway {SMALL} counts as gone", lambda: gone(stage), within_s=OFFLINE_S)
    after = await change_p50(stage, "many")
    note = (
        f"p50 {after:.1f} ms with {SERVICES} services and {MANY} agents, {before:.1f} ms with none and 1, one gateway"
    )
    progress(note)
    figures.append(Figure(NAMES[2], after / before, note=note))
    figures.append(await reload_figure(stage))
    figures += await cold_figures(stage)
    await publish_tcp(stage, SERVICES)
    figures.append(await rate_ratio(stage, NAMES[1], L4.public_port, *NEW_EACH))
    return figures


def gone(stage: Stage) -> bool:
    """Whether nobody waits for SMALL any more."""
    with stage.fleet.api() as api:
        return bool(api.get(f"/gateways/{SMALL}")["state"] != "live")


async def rate_ratio(stage: Stage, name: str, port: int, *options: str) -> Figure:
    """What wrk gets of FULL ÷ of SMALL."""

    async def take(gateway: str) -> float:
        url = f"http://{stage.lab.address(gateway)}:{port}/"
        return await asyncio.to_thread(requests_per_second, stage.lab, url, *options, seconds=SECONDS)

    return await ratio(name, lambda: take(FULL), lambda: take(SMALL), pairs=PAIRS)


async def change_p50(stage: Stage, name: str) -> float:
    """Milliseconds until FULL has applied one change."""
    requests = http_requests(CHANGES + WARM_UP, name=name)
    changes = await asyncio.to_thread(make_changes, stage, requests, gateways=(FULL,))
    return statistics.median(change.ms for change in changes)


async def reload_figure(stage: Stage) -> Figure:
    """As the gateway reloads: files written, worker replaced, the new one answers."""
    haproxy = Haproxy(Layout(stage.fleet.node_host(FULL).haproxy))
    samples = []
    for number in range(RELOADS):
        files = await haproxy.saved()
        if files is None:
            raise RuntimeError(f"gateway {FULL}: its HAProxy has no files")
        began = time.monotonic()
        await haproxy.reload(files)
        samples.append(time.monotonic() - began)
        progress(f"HAProxy reload {number + 1} of {RELOADS}: {samples[-1]:.2f} s")
        await asyncio.sleep(2)  # the gateway looks at its new worker
    return Figure(NAMES[3], statistics.median(samples), samples, f"{SERVICES} services, files written anew")


async def cold_figures(stage: Stage) -> list[Figure]:
    await stage.nodes(gateways=(COLD,))
    stage.following = (FULL, COLD)
    starts = []
    for number in range(STARTS):
        starts.append(await start_cold(stage))
        progress(f"cold start {number + 1} of {STARTS}: {starts[-1].seconds:.2f} s, {starts[-1].memory_mib:.0f} MiB")
    stage.following = (FULL,)
    await stage.fleet.units.stop(COLD)
    seconds, memory = [start.seconds for start in starts], [start.memory_mib for start in starts]
    note = f"{MANY} agents, {SERVICES} HTTP services; enrolment included"
    return [
        Figure(NAMES[4], statistics.median(seconds), seconds, note),
        Figure(NAMES[5], max(memory), memory, note),
    ]
