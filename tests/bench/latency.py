"""What the gateway adds to the latency of requests at half load: through it minus through the bare tunnel."""

import asyncio
import re
import statistics

from bench.harness import Figure, progress
from bench.stage import STATIC, STATIC_SITE, Stage
from bench.tcp import BARE, start_tunnel
from bench.web import CONNECTIONS, SERVICE, prepare, reachable, requests_per_second, start_target, wrk
from kakuremichi.lab.internet import Lab

PAIRS = 5
SECONDS = 4
_PERCENTILES = re.compile(r"^p50 (\d+) p99 (\d+)$", re.MULTILINE)


async def measure(stage: Stage) -> list[Figure]:
    await stage.nodes()
    await start_tunnel(stage)
    await prepare(stage)
    await start_target(stage, STATIC_SITE, BARE)
    await reachable(stage, BARE, SERVICE.port)
    ours, bare = f"http://{SERVICE.host_name}/", f"http://{BARE}:{SERVICE.port}/"
    most = await asyncio.to_thread(requests_per_second, stage.lab, ours)
    pause_ms = round(CONNECTIONS / (most / 2) * 1000)
    added: tuple[list[float], list[float]] = ([], [])
    for number in range(PAIRS):
        order = (ours, bare) if number % 2 == 0 else (bare, ours)
        taken = {url: await asyncio.to_thread(percentiles, stage.lab, url, pause_ms) for url in order}
        for samples, with_gateway, without in zip(added, taken[ours], taken[bare], strict=True):
            samples.append(with_gateway - without)
        progress(f"latency pair {number + 1} of {PAIRS}, p50 and p99 in ms: {taken[ours]} and {taken[bare]}")
    note = f"half of {most:.0f} requests/s, {CONNECTIONS} connections, mean pause {pause_ms} ms"
    return [
        Figure(f"added_latency_{name}", statistics.median(samples), samples, note)
        for name, samples in zip(("p50", "p99"), added, strict=True)
    ]


def percentiles(lab: Lab, url: str, pause_ms: int) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    printed = wrk(lab, url, "-s", str(STATIC / "paced.lua"), seconds=SECONDS, arguments=(str(pause_ms),))
    found = _PERCENTILES.search(printed)
    if found is None:
        raise RuntimeError(f"wrk {url}: no percentiles")
    return int(found[1]) / 1000, int(found[2]) / 1000
