"""A rotation costs no visitor a request. Figures are printed: `pytest -s`."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kakuremichi.dataplane.wireguard.userspace import UserspaceDevice
from kakuremichi.fleet.lab_fleet import SERVICES, Fleet, fleet_in
from kakuremichi.lab.internet import Lab
from kakuremichi.model.keys import key_text
from support.key_fleet import Load, load

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]

WEB_A = SERVICES[0]
GATEWAYS = ("gw1", "gw2")  # the third is revoked by another test
RATE = 100.0
QUIET_S, AFTER_S = 3.0, 6.0
STALLED_S = 7.0  # longer than a visitor waits
MOST_ADDED_MS = 1000.0


@pytest.fixture
async def fleet(key_fleet: tuple[Lab, Path]) -> AsyncIterator[Fleet]:
    async with fleet_in(*key_fleet) as running:
        yield running


async def node(fleet: Fleet, where: str) -> dict[str, Any]:
    api = fleet.api()
    try:
        found: dict[str, Any] = await asyncio.to_thread(api.get, where)
    finally:
        api.close()
    return found


async def rotate(fleet: Fleet, where: str) -> float:
    """Milliseconds until the registry has the new key."""
    before = await node(fleet, where)
    began, api = time.monotonic(), fleet.api()
    await asyncio.to_thread(api.call, "POST", f"{where}/rotate")
    api.close()
    async with asyncio.timeout(25):
        while (await node(fleet, where))["public_key"] == before["public_key"]:  # noqa: ASYNC110  # by asking only
            await asyncio.sleep(0.02)
    return (time.monotonic() - began) * 1000


async def under_load(fleet: Fleet, where: str, gateways: tuple[str, ...]) -> tuple[list[Load], float]:
    """Rotate in the middle of a load; the loads, and how many milliseconds the slowest request took longer by it."""
    with load(fleet.lab, WEB_A, gateways, RATE) as loads:
        await asyncio.sleep(QUIET_S)
        began = time.monotonic()
        took_ms = await rotate(fleet, where)
        await asyncio.sleep(AFTER_S)
    quiet = max(each.slowest(0, began - 0.5) for each in loads)
    during = max(each.slowest(began - 0.5, began + AFTER_S) for each in loads)
    print(  # noqa: T201  # a figure
        f"\nrotation of {where}: new key after {took_ms:.0f} ms,"
        f" {sum(len(each.answered) for each in loads)} requests at {RATE:g}/s,"
        f" {sum(len(each.failed) for each in loads)} failed, slowest {quiet:.0f} ms before, {during:.0f} ms during"
    )
    return loads, during - quiet


async def test_an_agents_rotation_fails_no_request_and_delays_none_by_a_second(fleet: Fleet) -> None:
    loads, added_ms = await under_load(fleet, "/agents/site-a", GATEWAYS)

    assert [each.failed for each in loads] == [[], []]
    assert added_ms <= MOST_ADDED_MS
    for gateway in GATEWAYS:
        assert not (await node(fleet, f"/gateways/{gateway}"))["errors"]


async def test_a_gateways_rotation_fails_no_request_through_the_others(fleet: Fleet) -> None:
    loads, added_ms = await under_load(fleet, "/gateways/gw1", GATEWAYS)

    assert loads[1].failed == []
    assert loads[0].failed == []  # nor through itself: what it has for agents waits until they have moved
    assert added_ms <= MOST_ADDED_MS


async def test_a_gateway_keeps_its_key_until_the_control_plane_has_taken_the_new_one(fleet: Fleet) -> None:
    """A keyring, or the disk below the registry's commits, may stand still in that very moment."""
    before = await node(fleet, "/gateways/gw1")
    pid = (await fleet.units.status())["keyring"].pid
    assert pid is not None
    with load(fleet.lab, WEB_A, GATEWAYS, RATE) as loads:
        os.kill(pid, signal.SIGSTOP)
        try:
            rotating = asyncio.create_task(rotate(fleet, "/gateways/gw1"))
            await asyncio.sleep(STALLED_S)
            assert (await node(fleet, "/gateways/gw1"))["public_key"] == before["public_key"]
        finally:
            os.kill(pid, signal.SIGCONT)
        took_ms = await rotating
        await asyncio.sleep(AFTER_S)

    assert took_ms >= STALLED_S * 1000
    assert [each.failed for each in loads] == [[], []]


async def test_no_peer_keeps_the_old_key(fleet: Fleet) -> None:
    """Wherever the old key was, the new one is alone: what still holds the old private key reaches nobody."""
    before = await node(fleet, "/agents/site-a")
    await rotate(fleet, "/agents/site-a")
    after = await node(fleet, "/agents/site-a")
    assert after["epoch"] > before["epoch"]
    for gateway in GATEWAYS:
        device = UserspaceDevice(fleet.node_host(gateway).interface)
        async with asyncio.timeout(5):
            while True:
                keys = {key_text(key) for key in (await device.read()).peers}
                if after["public_key"] in keys and before["public_key"] not in keys:
                    break
                await asyncio.sleep(0.05)
        device.close()
