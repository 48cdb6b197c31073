"""Metrics of every process in the running fleet, each from a socket of its own."""

import asyncio
import re
import stat
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kakuremichi.fleet.lab_fleet import Fleet
from kakuremichi.lab.units import Unit
from support import visits
from support.processes import processes_with

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]  # whoever comes first starts the fleet
VISITS = 5


def socket_of(fleet: Fleet, name: str) -> Path:
    return fleet.directory / f"{name}.metrics"


async def scraped(path: Path) -> dict[str, float]:
    """Sample → value."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: local\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 200"), head
    lines = (line for line in body.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def until(path: Path, holds: Callable[[dict[str, float]], Any]) -> dict[str, float]:
    deadline = time.monotonic() + 30
    while not holds(found := await scraped(path)):
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.2)
    return found


async def test_every_process_tells_its_metrics_and_a_gateway_those_of_its_services(fleet: Fleet) -> None:
    def env_of(unit: Unit) -> dict[str, str]:
        told = {"KAKUREMICHI_METRICS_LISTEN": f"unix:{socket_of(fleet, unit.name)}"}
        return {} if unit.name == "portal" else told

    async with processes_with(fleet, env_of):
        for name in ("registry", "keyring", "gw1", "site-a"):
            assert stat.S_IMODE(socket_of(fleet, name).stat().st_mode) == 0o600
            found = await until(socket_of(fleet, name), lambda found: found["kakuremichi_bus_connected"] == 1)
            assert found["process_resident_memory_bytes"] > 0
        registry = await scraped(socket_of(fleet, "registry"))
        assert registry["kakuremichi_registry_leads"] == 1
        assert registry['kakuremichi_relay_sent_position{stream="FEED"}'] > 0
        await until(socket_of(fleet, "site-a"), in_step)
        await the_services_of(fleet, socket_of(fleet, "gw1"))


def in_step(found: dict[str, float]) -> bool:
    feeds = re.findall(r'kakuremichi_node_feed_seq\{feed="([^"]+)"\}', "\n".join(found))
    seqs = [[found[f'kakuremichi_node_{what}_seq{{feed="{feed}"}}'] for what in ("feed", "applied")] for feed in feeds]
    return len(feeds) == 2 and all(heard == applied > 0 for heard, applied in seqs)


async def the_services_of(fleet: Fleet, path: Path) -> None:
    def web(found: dict[str, float]) -> float:
        return found.get('kakuremichi_service_requests_total{code="2xx",service="web-a"}', 0)

    def echo(found: dict[str, float]) -> float:
        name = 'kakuremichi_service_connections_total{carried_by="nftables",service="echo-b"}'
        return found.get(name, 0)

    before = await until(path, lambda found: found["kakuremichi_gateway_haproxy_up"] == 1)
    for _ in range(VISITS):
        answer = await asyncio.to_thread(visits.http_get, fleet.lab, "gw1", "web-a.lab.test")
        assert answer.status == 200
        greet = partial(visits.greeting, fleet.lab, fleet.lab.address("gw1"), 7000)
        await asyncio.to_thread(greet)
    after = await until(path, lambda found: web(found) >= web(before) + VISITS and echo(found) >= echo(before) + VISITS)
    assert after['kakuremichi_service_bytes_total{direction="out",service="web-a"}'] > 0
    for direction in ("in", "out"):
        assert after[f'kakuremichi_service_bytes_total{{direction="{direction}",service="echo-b"}}'] > 0
    visitor = fleet.lab.address("visitor")
    assert not [name for name in after if visitor in name]
