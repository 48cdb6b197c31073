"""One fleet for a whole test run: bring it up, take it down, and what several tests do with it."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kakuremichi.fleet.api import ApiError
from kakuremichi.fleet.lab_fleet import SERVICES, Fleet, fleet_in
from kakuremichi.lab import record
from kakuremichi.lab.internet import Lab
from support import truth

KEEPER_HOST = "backbone"
CONTROL = ("portal", "keyring", "registry", "provisioner", "nats", "postgres")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the fleet of this run is. Its keeper lives inside the lab and ends with it, also after a crash."""

    lab: Lab
    directory: Path


@contextmanager
def running_fleet() -> Iterator[Place]:
    """Build the lab, start everything and publish the four services of the demo; take it all down at the end."""
    place = Place(Lab(f"f{os.getpid()}-"), Path(tempfile.mkdtemp(prefix="kkf-")))
    place.lab.up(fresh=True, bound=True)
    try:
        _in_own_loop(_bring_up(place))
        yield place
    finally:
        _in_own_loop(_take_down(place))
        place.lab.down()
        shutil.rmtree(place.directory, ignore_errors=True)


async def _bring_up(place: Place) -> None:
    async with fleet_in(place.lab, place.directory, keeper_host=KEEPER_HOST) as fleet:
        await fleet.start_control_plane()
        await fleet.start_nodes()
        await fleet.publish()
        await truth.settled(fleet)


async def _take_down(place: Place) -> None:
    if (place.directory / "keeper" / "keeper.sock").exists():
        async with fleet_in(place.lab, place.directory, keeper_host=KEEPER_HOST) as fleet:
            await fleet.units.down()


def _in_own_loop(work: Coroutine[Any, Any, None]) -> None:
    """A session's fixture must not meet the event loop of the test that happens to come first."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


async def tidy(fleet: Fleet) -> None:
    """Unpublish what a test has left, and wait until every node is as the registry says."""
    usual = {service.name for service in SERVICES}
    with fleet.api() as api:
        for service in api.get("/services")["items"]:
            if service["name"] not in usual:
                api.delete(f"/services/{service['name']}")
        for service in SERVICES:
            api.call("PUT", f"/services/{service.name}", service.body)
    await truth.settled(fleet)


def get(fleet: Fleet, path: str) -> Any:
    """What the portal's API answers."""
    with fleet.api() as api:
        return api.get(path)


def put(fleet: Fleet, name: str, **body: Any) -> dict[str, Any]:
    """Publish and wait until every node has applied it. Without `targets`: port 8080 of site-a."""
    body.setdefault("targets", [{"agent": "site-a", "port": 8080}])
    return _applied(fleet, "PUT", f"/services/{name}", body)


def drop(fleet: Fleet, path: str) -> dict[str, Any]:
    """Delete and wait until every node has applied it; `path` as `/services/NAME`, a query may follow."""
    return _applied(fleet, "DELETE", path, None)


def _applied(fleet: Fleet, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    query = f"{'&' if '?' in path else '?'}wait=applied&timeout=25"
    with fleet.api() as api:
        status, answer = api.call(method, path + query, body)
    assert status in (200, 201), answer
    assert isinstance(answer, dict)
    return answer


async def eventually(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    """Wait for what happens in another process; the condition is asked in a thread."""
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110  (nothing tells us, only asking does)
            await asyncio.sleep(0.05)


async def come_back(fleet: Fleet, name: str) -> None:
    """A removed node as a new one: another key, another enrolment, under the old name."""
    await forget(fleet, name)
    await (fleet.start_gateway(name) if name.startswith("gw") else fleet.start_agent(name))
    await fleet.all_live([name])


async def forget(fleet: Fleet, name: str) -> None:
    """End the programs of a removed node and erase what it left on its host."""
    known = await fleet.units.status()
    for unit in (name, f"haproxy-{name}", f"wg-{name}"):
        if unit in known:
            await fleet.units.stop(unit)
    shutil.rmtree(fleet.node_host(name).directory)
    fleet.lab.run(name, ["nft", "delete", "table", "inet", "kakuremichi"])


async def portal_answers(fleet: Fleet, within_s: float = 30.0) -> None:
    """Wait until a read goes all the way to PostgreSQL and back."""
    await eventually(lambda: _answers(fleet), within_s)


def _answers(fleet: Fleet) -> bool:
    try:
        get(fleet, "/services")
    except ApiError:
        return False
    return True


async def killed(fleet: Fleet, unit: str, signal: str = "SIGKILL") -> int:
    """End the unit's process by a signal; returns when its keeper runs another one, whose pid it is."""
    before = (await fleet.units.status())[unit].pid
    assert before is not None
    await fleet.units.kill(unit, signal)
    await ended(before)
    return await running(fleet, unit)


async def running(fleet: Fleet, unit: str, within_s: float = 30.0) -> int:
    """The pid of the unit's living process."""
    async with asyncio.timeout(within_s):
        while True:
            status = (await fleet.units.status())[unit]
            if status.pid is not None and record.start_time(status.pid) is not None:
                return status.pid
            await asyncio.sleep(0.02)


async def ended(pid: int, within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while record.start_time(pid) is not None:  # noqa: ASYNC110  (another process's end has no event)
            await asyncio.sleep(0.005)


def log_size(fleet: Fleet, node: str) -> int:
    return _log(fleet, node).stat().st_size


async def logged(fleet: Fleet, node: str, event: str, after: int, within_s: float = 30.0) -> None:
    """Wait until the node's log has the event behind the place `after` (see `log_size`)."""
    needle, path = f'"event": "{event}"'.encode(), _log(fleet, node)
    deadline = time.monotonic() + within_s
    while True:
        with path.open("rb") as log:
            log.seek(after)
            if needle in log.read():
                return
        assert time.monotonic() < deadline, f"{node}: no {event!r} in its log within {within_s:g} s"
        await asyncio.sleep(0.01)


def _log(fleet: Fleet, node: str) -> Path:
    return fleet.node_host(node).directory / ("gateway.log" if node.startswith("gw") else "agent.log")
