"""One service against 10,000: gw1 has them all, gw2 was stopped before they came and carries on with what it had."""

import asyncio
import statistics
import time

from bench.changes import WARM_UP, http_requests, make_changes, show
from bench.cold_start import COLD, STARTS, start_cold
from bench.crowd import grow, grow_services, publish_tcp
from bench.fleet_size import MANY
from bench.harness import Figure, progress, ratio
from bench.proxy_protocol import NEW_EACH
from bench.spans import SPANS_S, read_traces
from bench.stage import SITE, Stage, wait_until
from bench.web import SERVICE, reachable, requests_per_second, start_target
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.proxy import Haproxy
from kakuremichi.fleet.lab_fleet import PrivateService

SERVICES = 10_000
FULL, SMALL = "gw1", "gw2"
PAIRS, SECONDS = 5, 3
REQUEST_PAIRS = 21  # five differ by a tenth from run to run
CHANGES, RELOADS = 24, 5
OFFLINE_S = 120.0  # a node counts as live for 90 s after its last report
L4 = PrivateService("bench-l4", SITE, SITE, SERVICE.address, SERVICE.port, public_port=8600)
REQUESTS, CONNECTIONS = "requests_10000_services_ratio", "connections_10000_services_ratio"
ONE_CHANGE, RELOAD = "one_change_10000_services_ratio", "haproxy_reload_10000"
COLD_START, COLD_MEMORY = "cold_start_10000_services", "cold_start_10000_services_memory"


async def prepare(stage: Stage) -> None:
    """On a stage of its own: there may be no other services, and SMALL does not come back."""
    if stage.few_services_ms:
        return
    if stage.crowd_size:
        raise RuntimeError("the many services did not come about, so there is nothing to compare")
    stage.following = (FULL,)
    await stage.nodes(gateways=(FULL,))
    await grow(stage, MANY - 1)
    before = await change_p50(stage, "few")
    await start_target(stage, SITE, SERVICE.address)
    await stage.nodes(gateways=(SMALL,))  # it has all these agents too, so that the services alone make the difference
    for service in (SERVICE, L4):
        await stage.publish(service)
    for name in (FULL, SMALL):
        await reachable(stage, stage.lab.address(name), L4.public_port)
    await stage.fleet.units.stop(SMALL)
    await grow_services(stage, SERVICES)
    stage.few_services_ms = before


async def requests(stage: Stage) -> list[Figure]:
    await prepare(stage)
    return [await rate_ratio(stage, REQUESTS, 80, "-H", f"Host: {SERVICE.host_name}", pairs=REQUEST_PAIRS)]


async def connections(stage: Stage) -> list[Figure]:
    """With as many TCP services besides."""
    await prepare(stage)
    await publish_tcp(stage, SERVICES)
    return [await rate_ratio(stage, CONNECTIONS, L4.public_port, *NEW_EACH)]


async def one_change(stage: Stage) -> list[Figure]:
    await prepare(stage)
    await asyncio.to_thread(wait_until, f"gateway {SMALL} counts as gone", lambda: gone(stage), within_s=OFFLINE_S)
    before, after = stage.few_services_ms, await change_p50(stage, "many")
    note = f"p50 {after:.1f} ms with {SERVICES} services, {before:.1f} ms with none; {MANY} agents, one gateway"
    progress(note)
    return [Figure(ONE_CHANGE, after / before, note=note)]


def gone(stage: Stage) -> bool:
    """Whether nobody waits for SMALL any more."""
    with stage.fleet.api() as api:
        return bool(api.get(f"/gateways/{SMALL}")["state"] != "live")


async def rate_ratio(stage: Stage, name: str, port: int, *options: str, pairs: int = PAIRS) -> Figure:
    """What wrk gets of FULL ÷ of SMALL."""

    async def take(gateway: str) -> float:
        url = f"http://{stage.lab.address(gateway)}:{port}/"
        return await asyncio.to_thread(requests_per_second, stage.lab, url, *options, seconds=SECONDS)

    return await ratio(name, lambda: take(FULL), lambda: take(SMALL), pairs=pairs)


async def change_p50(stage: Stage, name: str) -> float:
    """Milliseconds until FULL has applied one change."""
    wanted = http_requests(CHANGES + WARM_UP, name=name)
    changes = await asyncio.to_thread(make_changes, stage, wanted, gateways=(FULL,))
    await asyncio.sleep(SPANS_S)
    show(f"{name} services", changes, read_traces(stage.directory))
    return statistics.median(change.ms for change in changes)


async def reload(stage: Stage) -> list[Figure]:
    """As the gateway reloads: files written, worker replaced, the new one answers."""
    await prepare(stage)
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
    return [Figure(RELOAD, statistics.median(samples), samples, f"{SERVICES} services, files written anew")]


async def cold(stage: Stage) -> list[Figure]:
    await prepare(stage)
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
        Figure(COLD_START, statistics.median(seconds), seconds, note),
        Figure(COLD_MEMORY, max(memory), memory, note),
    ]


# In this order: each finds what those before it left.
FIGURES = (
    ((REQUESTS,), requests),
    ((ONE_CHANGE,), one_change),
    ((RELOAD,), reload),
    ((COLD_START, COLD_MEMORY), cold),
    ((CONNECTIONS,), connections),
)
