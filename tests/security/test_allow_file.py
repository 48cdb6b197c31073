"""The site has the last word: an agent serves no target outside its own allow file, however well it is signed."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from kakuremichi.fleet.lab_fleet import SERVICES, Fleet, PrivateService, fleet_in
from kakuremichi.fleet.nodes import agent_unit
from kakuremichi.fleet.visitor import fetch
from kakuremichi.lab.internet import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(120)]

WEB_B = SERVICES[1]  # on another machine of the site
ECHO_B = SERVICES[3]  # on the agent's own loopback
RULES = "# the wiki's machine and nothing else\n192.168.2.130/32 8080 tcp\n"


@pytest.fixture(scope="module")
def allow_place() -> Iterator[tuple[Lab, Path]]:
    """One gateway and one site, whose agent has an allow file from its second start on."""
    lab, directory = Lab(f"v{os.getpid()}-"), Path(tempfile.mkdtemp(prefix="kk-v-"))
    lab.up(fresh=True, bound=True)
    try:
        asyncio.run(_begin(lab, directory))
        yield lab, directory
    finally:
        asyncio.run(_end(lab, directory))
        lab.down()
        shutil.rmtree(directory, ignore_errors=True)


async def _begin(lab: Lab, directory: Path) -> None:
    async with fleet_in(lab, directory) as fleet:
        await fleet.start_control_plane()
        await fleet.start_nodes(("gw1",), ("site-b",))
        for service in (WEB_B, ECHO_B):
            await fleet.start_target(service)
        publish(fleet, WEB_B)


async def _end(lab: Lab, directory: Path) -> None:
    async with fleet_in(lab, directory) as fleet:
        await fleet.units.down()


@pytest.fixture
async def fleet(allow_place: tuple[Lab, Path]) -> AsyncIterator[Fleet]:
    async with fleet_in(*allow_place) as fleet:
        yield fleet


async def restart_with(fleet: Fleet, rules: str) -> None:
    """The site changes its mind and starts its agent again."""
    host = fleet.node_host("site-b")
    file = host.directory / "allow"
    file.write_text(rules)
    unit = agent_unit(host, "")
    await fleet.units.start(msgspec.structs.replace(unit, argv=(*unit.argv, "--allow", str(file))))
    await fleet.units.restart(unit.name)


def publish(fleet: Fleet, service: PrivateService) -> None:
    api = fleet.api()
    api.call("POST", "/services?wait=applied&timeout=25", service.body)
    api.close()


def reported(fleet: Fleet) -> str:
    """The agent's errors as the portal shows them."""
    api = fleet.api()
    agents = {node["name"]: node for node in api.get("/agents")["items"]}
    api.close()
    return str(agents["site-b"]["errors"])


async def until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.2)


async def test_a_published_target_outside_the_file_is_refused_and_named(fleet: Fleet) -> None:
    await restart_with(fleet, RULES)
    publish(fleet, ECHO_B)  # the registry signs it and the gateway carries it out: the agent does not

    await until("the allowed one is served", lambda: fetch(fleet.lab, WEB_B, "gw1").ok)
    await until("the refusal is reported", lambda: "allow file does not permit 127.0.0.1" in reported(fleet))
    assert not fetch(fleet.lab, ECHO_B, "gw1").ok


async def test_a_site_that_narrows_its_file_ends_what_was_served(fleet: Fleet) -> None:
    await restart_with(fleet, RULES)
    await until("it is served", lambda: fetch(fleet.lab, WEB_B, "gw1").ok)

    await restart_with(fleet, "192.168.2.130/32 9000-9999 tcp\n")

    await until("it is served no more", lambda: not fetch(fleet.lab, WEB_B, "gw1").ok)
    await until("and named", lambda: "does not permit 192.168.2.130 port 8080/tcp" in reported(fleet))


async def test_a_file_with_a_fault_keeps_the_agent_from_starting_and_nothing_is_widened(fleet: Fleet) -> None:
    await restart_with(fleet, RULES)
    await until("it is served", lambda: fetch(fleet.lab, WEB_B, "gw1").ok)
    log = Path(fleet.node_host("site-b").log("agent"))

    await restart_with(fleet, "everything please\n")

    await until("the fault is named", lambda: "allow file: line 1" in log.read_text())
    assert not fetch(fleet.lab, ECHO_B, "gw1").ok
    await restart_with(fleet, RULES)
    await until("it is served again", lambda: fetch(fleet.lab, WEB_B, "gw1").ok)
