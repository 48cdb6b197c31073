"""A copied disk that is started elsewhere: the real node notices by itself, and is served again after a release."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kakuremichi.fleet.lab_fleet import SERVICES, Fleet, fleet_in
from kakuremichi.fleet.nodes import agent_unit, engine_unit
from kakuremichi.fleet.visitor import fetch
from kakuremichi.lab.internet import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]

WEB_C = SERVICES[2]
THIEF = "office"
NOTICED_WITHIN_S = 60.0


@pytest.fixture
async def fleet(key_fleet: tuple[Lab, Path]) -> AsyncIterator[Fleet]:
    async with fleet_in(*key_fleet) as running:
        yield running


async def ask(fleet: Fleet, method: str, where: str) -> Any:
    api = fleet.api()
    try:
        return (await asyncio.to_thread(api.call, method, where))[1]
    finally:
        api.close()


async def until(true: Callable[[], Awaitable[bool]], within_s: float) -> float:
    began = time.monotonic()
    async with asyncio.timeout(within_s):
        while not await true():  # noqa: ASYNC110  # by asking only
            await asyncio.sleep(0.25)
    return time.monotonic() - began


async def test_a_copy_is_noticed_named_and_released(fleet: Fleet) -> None:
    original, copy = fleet.node_host("site-c"), fleet.node_host(THIEF)
    copy.haproxy.mkdir(mode=0o700, parents=True)
    shutil.copytree(original.directory / "state", copy.directory / "state")
    units = engine_unit(copy), agent_unit(copy, "")
    await fleet.units.start_all(units)

    async def quarantined() -> bool:
        return bool((await ask(fleet, "GET", "/agents/site-c"))["state"] == "quarantined")

    took_s = await until(quarantined, NOTICED_WITHIN_S)
    print(f"\nthe copy was noticed after {took_s:.1f} s")  # noqa: T201  # a figure

    events = await ask(fleet, "GET", "/events?limit=50")
    (fact,) = [event["fact"] for event in events["items"] if event["topic"] == "node-quarantined"]
    named = json.loads(fact) if isinstance(fact, str) else fact
    assert named["node_id"] == "site-c"
    assert named["public_key"] != named["said_public_key"]

    for unit in reversed(units):
        await fleet.units.stop(unit.name)
    await ask(fleet, "POST", "/agents/site-c/release")

    async def served() -> bool:
        return await asyncio.to_thread(lambda: all(fetch(fleet.lab, WEB_C, gateway).ok for gateway in ("gw1", "gw2")))

    print(f"served again after {await until(served, 60):.1f} s")  # noqa: T201
    assert (await ask(fleet, "GET", "/agents/site-c"))["state"] == "live"
