"""Revoked in a running fleet: peers cut it off by the signed record alone, and what was open through it ends."""

import asyncio
import http.client
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import AsyncConntrack

from kakuremichi.dataplane.nftables.marks import AGENT_MARK, ROLE_MASK
from kakuremichi.dataplane.wireguard.userspace import UserspaceDevice
from kakuremichi.fleet.lab_fleet import GATEWAYS, SERVICES, Fleet, fleet_in
from kakuremichi.fleet.visitor import connect, fetch
from kakuremichi.lab.internet import Lab
from kakuremichi.model.keys import key_text
from support.key_fleet import open_request

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]

WEB_A, WEB_B, _, ECHO_B = SERVICES
LONG = "/sse/390"  # answers for 19 s
WITHIN_S = 2.0


@pytest.fixture
async def fleet(key_fleet: tuple[Lab, Path]) -> AsyncIterator[Fleet]:
    async with fleet_in(*key_fleet) as running:
        yield running


async def revoke(fleet: Fleet, where: str) -> dict[str, Any]:
    """The answer, once every live peer has applied it."""
    api = fleet.api()
    try:
        _, answer = await asyncio.to_thread(api.call, "POST", f"{where}/revoke?wait=applied&timeout=25")
    finally:
        api.close()
    print(f"\n{where} revoked: {answer['applied']}")  # noqa: T201  # a figure
    return dict(answer)


async def node(fleet: Fleet, where: str) -> dict[str, Any]:
    api = fleet.api()
    try:
        return dict(await asyncio.to_thread(api.get, where))
    finally:
        api.close()


def ends(connection: http.client.HTTPConnection) -> float:
    """Seconds until an answer under way breaks off."""
    began = time.monotonic()
    with closing(connection), suppress(http.client.HTTPException, ConnectionError):
        answer = connection.getresponse()
        while answer.read(64):
            pass
    return time.monotonic() - began


def is_reset(connection: socket.socket) -> bool:
    with connection:
        try:
            connection.settimeout(WITHIN_S)
            connection.sendall(b"more\n")
            return connection.recv(10) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False


async def test_connections_through_a_revoked_agent_end_on_every_gateway(fleet: Fleet) -> None:
    """The agent itself is frozen: nothing of this is its doing."""
    gateways = [name for name in GATEWAYS if (await node(fleet, f"/gateways/{name}"))["state"] != "revoked"]
    requests = [open_request(fleet.lab, WEB_B, gateway, LONG) for gateway in gateways]
    echoes = [connect(fleet.lab, fleet.lab.address(gateway), ECHO_B.public_port) for gateway in gateways]
    for echo in echoes:
        assert echo.recv(100) == b"hello from echo-b\n"
    await asyncio.sleep(0.5)
    pid = (await fleet.units.status())["site-b"].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = await revoke(fleet, "/agents/site-b")
    finally:
        os.kill(pid, signal.SIGCONT)

    assert {one["node"] for one in answer["applied"]} >= set(gateways) >= {"gw1", "gw2"}
    assert answer["pending"] == []
    took = await asyncio.gather(*(asyncio.to_thread(ends, each) for each in requests))
    assert max(took) < WITHIN_S
    assert all([await asyncio.to_thread(is_reset, echo) for echo in echoes])
    assert not fetch(fleet.lab, WEB_B, "gw1").ok
    assert fetch(fleet.lab, WEB_A, "gw1").ok
    assert (await node(fleet, "/agents/site-b"))["state"] == "revoked"


async def test_a_revoked_gateway_is_nobodys_peer_and_the_others_go_on(fleet: Fleet) -> None:
    gone = await node(fleet, "/gateways/gw3")
    through_it = open_request(fleet.lab, WEB_A, "gw3", LONG)
    through_another = open_request(fleet.lab, WEB_A, "gw1", LONG)
    await asyncio.sleep(0.5)
    assert await flows_from(fleet, "site-a", gone["slot"])

    answer = await revoke(fleet, "/gateways/gw3")

    assert {one["node"] for one in answer["applied"]} >= {"site-a", "site-c"}
    for agent in ("site-a", "site-c"):
        assert gone["public_key"] not in await peers(fleet, agent)
    assert not await flows_from(fleet, "site-a", gone["slot"])
    through_it.close()
    with closing(through_another):
        assert through_another.getresponse().read(16)
    assert fetch(fleet.lab, WEB_A, "gw2").ok
    assert not await asyncio.to_thread(lambda: fetch(fleet.lab, WEB_A, "gw3").ok)


async def peers(fleet: Fleet, name: str) -> set[str]:
    device = UserspaceDevice(fleet.node_host(name).interface)
    try:
        return {key_text(key) for key in (await device.read()).peers}
    finally:
        device.close()


async def flows_from(fleet: Fleet, agent: str, slot: int) -> int:
    """How many flows to its targets the gateway of this slot has at an agent."""
    subnet = (await node(fleet, f"/agents/{agent}"))["subnet"]
    source = str(ip_address(subnet.partition("/")[0]) + slot)
    async with AsyncConntrack(netns=fleet.lab.namespace(agent)) as conntrack:
        found = await conntrack.dump_entries(mark=AGENT_MARK, mark_mask=ROLE_MASK)
        return len([entry async for entry in found if entry.tuple_orig.saddr == source])
