"""A fleet whose access to the bus expires every few seconds, with and without a registry to renew it."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from kakuremichi.fleet.control_plane import ControlPlane
from kakuremichi.fleet.lab_fleet import SERVICES, Fleet, fleet_in
from kakuremichi.fleet.visitor import Fetch, fetch
from kakuremichi.lab.internet import Lab

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

LIFE_S = 8
GATEWAY, AGENT = "gw1", "site-a"
WEB = next(service for service in SERVICES if service.name == "web-a")


@pytest.fixture
async def fleet(lab: Lab, run_dir: Path) -> AsyncIterator[Fleet]:
    async with fleet_in(lab, run_dir) as fleet:
        fleet.control = ControlPlane(replace(fleet.control.options, node_jwt_s=LIFE_S))
        await fleet.start_control_plane()
        await fleet.start_nodes([GATEWAY], [AGENT])
        await fleet.start_target(WEB)
        fleet.lab.add_name(WEB.host_name, GATEWAY)
        await asyncio.to_thread(publish, fleet)
        yield fleet
        await fleet.units.down()


def publish(fleet: Fleet) -> None:
    api = fleet.api()
    status, answer = api.call("POST", "/services?wait=applied&timeout=25", WEB.body)
    api.close()
    assert status in (200, 201), answer


def log_of(fleet: Fleet, name: str) -> str:
    return (fleet.node_host(name).directory / ("gateway.log" if name == GATEWAY else "agent.log")).read_text()


def announcement(fleet: Fleet, name: str) -> bytes:
    return (fleet.node_host(name).directory / "state" / "announcement").read_bytes()


def by_portal(fleet: Fleet, name: str) -> int:
    """How often the node has got new access over HTTP."""
    return log_of(fleet, name).count('"way": "portal"')


async def visit(fleet: Fleet, seconds: float) -> list[Fetch]:
    """Ten requests a second with new connections; those that failed."""
    failed, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        got = await asyncio.to_thread(fetch, fleet.lab, WEB, GATEWAY)
        failed += [] if got.ok else [got]
        await asyncio.sleep(0.1)
    return failed


async def test_expiry_touches_no_tunnel_with_a_registry_and_without(fleet: Fleet) -> None:
    before = {name: announcement(fleet, name) for name in (GATEWAY, AGENT)}
    failed = await visit(fleet, 2.5 * LIFE_S)
    for name in (GATEWAY, AGENT):
        assert '"way": "bus"' in log_of(fleet, name)

    await fleet.units.stop("registry")
    asked_before = {name: by_portal(fleet, name) for name in before}
    failed += await visit(fleet, 2.5 * LIFE_S)
    for name in (GATEWAY, AGENT):
        assert "the portal answers 50" in log_of(fleet, name), "it asked while nobody could answer"
        assert by_portal(fleet, name) == asked_before[name]

    registry = next(unit for unit in fleet.control.units() if unit.name == "registry")
    await fleet.units.start(registry)
    async with asyncio.timeout(120):  # backoffs of the connection and of the portal
        while not all(by_portal(fleet, name) > asked_before[name] for name in before):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    failed += await visit(fleet, LIFE_S)

    assert failed == []
    assert {name: announcement(fleet, name) for name in before} == before
    assert all("interface vanished" not in log_of(fleet, name) for name in before)
