"""Faults: whatever of the control plane or of the Python side ends, visitors do not notice and no write is lost."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from kakuremichi.fleet.lab_fleet import AGENTS, GATEWAYS, Fleet, fleet_in
from support import truth, visits
from support.fleet import CONTROL, ended, eventually, get, killed, log_size, logged, portal_answers, put
from support.loads import GIB, Visitors, http_download, pattern_sha256, tcp_upload
from support.writers import Writer

pytestmark = [pytest.mark.root, pytest.mark.slow]

NODES = (*GATEWAYS, *AGENTS)


def new_connections(fleet: Fleet) -> dict[str, Callable[[], object]]:
    """One visit by HTTP through HAProxy and one by TCP through nftables, at every gateway."""

    def by_http(gateway: str) -> None:
        assert visits.http_get(fleet.lab, gateway, "web-a.lab.test").json["site"] == "web-a"

    def by_tcp(gateway: str) -> None:
        assert visits.greeting(fleet.lab, fleet.lab.address(gateway), 7000) == "echo-b"

    visits_by_kind = {"http": by_http, "tcp": by_tcp}
    return {
        f"{kind} {gateway}": partial(visit, gateway) for gateway in GATEWAYS for kind, visit in visits_by_kind.items()
    }


async def restarted_node(fleet: Fleet, name: str) -> None:
    """Kill the node's Python process and wait until the next one has compared everything that is there."""
    place = log_size(fleet, name)
    await killed(fleet, name)
    await logged(fleet, name, "interface adopted", place)
    await logged(fleet, name, "everything compared", place)


@pytest.mark.timeout(180)
async def test_killing_each_python_process_and_the_keeper_breaks_no_transfer_of_a_gibibyte(fleet: Fleet) -> None:
    put(fleet, "bulk", kind="tcp", port=7500)
    download = http_download(fleet.lab, "gw1", "web-a.lab.test", GIB, rate=20e6)
    upload = tcp_upload(fleet.lab, "gw1", 7500, GIB, rate=20e6)
    with Visitors(new_connections(fleet), pause_s=0.05) as visitors:
        for service in ("registry", "keyring", "portal", "provisioner"):
            await killed(fleet, service)
        for name in ("gw1", "site-a"):
            await restarted_node(fleet, name)
        await killed(fleet, "haproxy-gw1")
        await kill_the_keeper(fleet)
        await portal_answers(fleet)
        carried = download.done, upload.done

    assert download.lasts, f"the download had ended, {carried}"
    assert upload.lasts, f"the upload had ended, {carried}"
    for transfer in (download, upload):
        transfer.hurry()
        await asyncio.to_thread(transfer.join, 60)
    assert {download.sha256, upload.sha256} == {pattern_sha256(GIB)}
    assert visitors.failures == []
    assert visitors.count >= len(new_connections(fleet)), "not every way in was tried"


async def kill_the_keeper(fleet: Fleet) -> None:
    before = await pids(fleet)
    keeper = fleet.units.keeper_pid
    os.kill(keeper, signal.SIGKILL)
    await ended(keeper)
    async with fleet_in(fleet.lab, fleet.directory, keeper_host="backbone") as again:
        assert again.units.keeper_pid != keeper
        assert await pids(again) == before


async def pids(fleet: Fleet) -> dict[str, int]:
    return {name: status.pid for name, status in (await fleet.units.status()).items() if status.pid is not None}


@pytest.mark.timeout(180)
async def test_no_answered_write_is_lost_while_nats_and_postgresql_are_restarted(fleet: Fleet) -> None:
    with Writer(fleet, rate=20, seed=7) as writer:
        await answers(writer, 20)
        for unit in ("nats", "postgres"):
            await killed(fleet, unit)
            await answers(writer, 15)
            await fleet.units.restart(unit)  # in good order
            await answers(writer, 15)

    assert writer.refused == []
    await portal_answers(fleet)
    await truth.settled(fleet, 40)
    events = all_events(fleet)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert writer.faults(get(fleet, "/services")["items"], events) == []


def all_events(fleet: Fleet) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    while page := get(fleet, f"/events?after={len(events)}&limit=200")["items"]:
        events += page
    return events


async def answers(writer: Writer, more: int, within_s: float = 40) -> None:
    """Wait for so many more writes that were answered with success."""
    enough = writer.answered + more
    async with asyncio.timeout(within_s):
        while writer.answered < enough:  # noqa: ASYNC110  (the writer is a thread)
            await asyncio.sleep(0.05)


@pytest.mark.timeout(120)
async def test_the_fleet_converges_from_postgresql_when_nats_has_forgotten_everything(fleet: Fleet) -> None:
    for gateway in GATEWAYS:  # what is written now they shall not hear by the old streams
        fleet.lab.partition(gateway, "control")
    with fleet.api() as api:
        for number in range(5):
            body = {"kind": "http", "host": f"late-{number}.lab.test", "targets": [{"agent": "site-a", "port": 8080}]}
            api.call("PUT", f"/services/late-{number}", body)
    await fleet.units.stop("nats")
    shutil.rmtree(fleet.control.directory / "nats")
    (fleet.control.directory / "nats").mkdir(mode=0o700)
    fleet.lab.heal()
    await fleet.units.start_all(fleet.control.units())

    await portal_answers(fleet)
    await truth.settled(fleet)
    for gateway in GATEWAYS:
        assert visits.http_get(fleet.lab, gateway, "late-4.lab.test").status == 200
    put(fleet, "after", kind="http", host="after.lab.test")  # and events reach everybody again


@pytest.mark.timeout(120)
async def test_without_the_control_plane_traffic_goes_on_and_new_connections_too(fleet: Fleet) -> None:
    download = http_download(fleet.lab, "gw2", "web-c.lab.test", 64 << 20, rate=8e6)
    async with stopped_control_plane(fleet):
        with Visitors(new_connections(fleet), pause_s=0.02) as visitors:
            await asyncio.sleep(3)
        assert download.lasts
        download.hurry()
        await asyncio.to_thread(download.join, 30)
    assert download.sha256 == pattern_sha256(64 << 20)
    assert visitors.failures == []
    assert visitors.slowest_s < 3, "somebody waited for more than one lost packet"


@pytest.mark.timeout(120)
async def test_nodes_restarted_without_the_control_plane_change_nothing(fleet: Fleet) -> None:
    put(
        fleet,
        "lasting",
        kind="tcp",
        port=7600,
        sources=["198.51.100.0/24"],
        targets=[{"agent": "site-a", "port": 8080}],
    )
    # A full comparison sweeps what limits of former services have left: that is done before.
    await asyncio.gather(*(restarted_node(fleet, name) for name in NODES))
    before = await truth.fingerprint(fleet)
    async with stopped_control_plane(fleet):
        with Visitors(new_connections(fleet), pause_s=0.02) as visitors:
            await asyncio.gather(*(restarted_node(fleet, name) for name in NODES))
        assert visitors.failures == []
        assert await truth.fingerprint(fleet) == before
    put(fleet, "after", kind="http", host="after.lab.test")  # the nodes are back at their feeds


@pytest.mark.parametrize("name", ["gw2", "site-b"])
async def test_a_wireguard_engine_that_dies_comes_back_with_another_key(fleet: Fleet, name: str) -> None:
    kind = "gateways" if name in GATEWAYS else "agents"
    before = get(fleet, f"/{kind}/{name}")

    await killed(fleet, f"wg-{name}")

    await eventually(lambda: get(fleet, f"/{kind}/{name}")["public_key"] != before["public_key"], 20)
    await truth.settled(fleet, 20)
    for visit in new_connections(fleet).values():
        await asyncio.to_thread(visit)
    assert get(fleet, f"/{kind}/{name}")["epoch"] > before["epoch"]


@asynccontextmanager
async def stopped_control_plane(fleet: Fleet) -> AsyncIterator[None]:
    for unit in CONTROL:
        await fleet.units.stop(unit)
    try:
        yield
    finally:
        await fleet.units.start_all(fleet.control.units())
        await portal_answers(fleet)
        await fleet.all_live(NODES)
