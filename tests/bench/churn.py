"""Services added, changed and removed under load: no request of another service may fail."""

import asyncio
import time

from bench.crowd import in_control
from bench.harness import Figure
from bench.http_line import Door, HttpLine
from bench.rotation import RATE, WEB, serve
from bench.stage import SITE, Stage
from kakuremichi.fleet.lab_fleet import GATEWAYS
from support.key_fleet import load

SERVICES_PER_S = 50
SECONDS = 20
LINES = 16
LEAST = 0.9


async def measure(stage: Stage) -> list[Figure]:
    await serve(stage)
    door = Door.of(stage)
    with load(stage.lab, WEB, GATEWAYS, RATE) as loads:
        seconds = await in_control(stage, lambda: change_services(door, SERVICES_PER_S * SECONDS))
    failed = [error for each in loads for error in each.failed]
    asked = sum(len(each.answered) for each in loads) + len(failed)
    rate = SERVICES_PER_S * SECONDS / seconds
    if asked < LEAST * RATE * seconds:
        raise RuntimeError(f"load: {asked / seconds:.0f} requests/s came about, {RATE:g} are wanted")
    if rate < LEAST * SERVICES_PER_S:
        failures = f"{len(failed)} of {asked} requests failed"
        raise RuntimeError(f"{rate:.1f} services/s were added, changed and removed, not {SERVICES_PER_S}; {failures}")
    note = f"{asked} requests in {seconds:.0f} s, {rate:.0f} services/s added, changed and removed"
    return [Figure("changes_under_load_failed", len(failed), note="; ".join([note, *failed[:2]]))]


async def change_services(door: Door, count: int) -> float:
    """Seconds for `count` services, each added, given another host name and removed, at an even pace."""
    numbers, began = iter(range(count)), time.monotonic()

    async def work(line: HttpLine) -> None:
        for number in numbers:
            await asyncio.sleep(max(0.0, began + number / SERVICES_PER_S - time.monotonic()))
            path = f"/services/churn-{number}"
            await line.call("PUT", path, _body(f"churn-{number}"))
            await line.call("PUT", path, _body(f"churn-{number}-b"))
            await line.call("DELETE", path)

    lines = [await HttpLine.open(door) for _ in range(LINES)]
    try:
        await asyncio.gather(*map(work, lines))
    finally:
        for line in lines:
            line.close()
    return time.monotonic() - began


def _body(host: str) -> dict[str, object]:
    return {"kind": "http", "host": f"{host}.lab.test", "targets": [{"agent": SITE, "port": 9000}]}
