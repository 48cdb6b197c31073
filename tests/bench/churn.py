"""Services added, changed and removed under load: how many a second, and no request of another service may fail."""

import asyncio
import time

from bench.api import as_deployed
from bench.crowd import in_control
from bench.harness import Figure
from bench.http_line import Door, HttpLine
from bench.rotation import RATE, WEB, serve
from bench.stage import SITE, Stage
from kakuremichi.fleet.lab_fleet import GATEWAYS
from support.key_fleet import load

SERVICES_PER_S = 50
SECONDS = 60
LINES = 16
LEAST = 0.9
NAMES = ("changes_under_load_failed", "changes_under_load_per_second")


async def measure(stage: Stage) -> list[Figure]:
    """As a server has it: traces of changes go to the portal, no files are written."""
    await serve(stage)
    async with as_deployed(stage):
        door = Door.of(stage)
        with load(stage.lab, WEB, GATEWAYS, RATE) as loads:
            seconds = await in_control(stage, lambda: change_services(door, SERVICES_PER_S * SECONDS))
    failed = [error for each in loads for error in each.failed]
    asked = sum(len(each.answered) for each in loads) + len(failed)
    rate = SERVICES_PER_S * SECONDS / seconds
    if asked < LEAST * RATE * seconds:
        raise RuntimeError(f"load: {asked / seconds:.0f} requests/s came about, {RATE:g} are wanted")
    note = f"{asked} requests in {seconds:.0f} s, {rate:.1f} services/s added, changed and removed"
    return [
        Figure(NAMES[0], len(failed), note="; ".join([note, *failed[:2]])),
        Figure(NAMES[1], rate, note=f"{SERVICES_PER_S * SECONDS} services; asked for {SERVICES_PER_S} a second"),
    ]


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
