"""The first seed: what listens on a site's loopback alone is reached at the public ports of every gateway.

Frontend, backend and ArgoCD (HTTP and HTTPS) of a small cluster, for many visitors at once, and still after everything
was restarted: what `socat` with `fork` and a systemd unit per port used to do.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from kakuremichi.fleet.lab_fleet import AGENTS, GATEWAYS, Fleet
from support import truth, visits
from support.fleet import CONTROL, ended, eventually, portal_answers, put
from support.reboot import power_off, power_on
from support.seed_loopback import DOORS, SITE, TLS_NAME, Door, Visit, pem, private_units

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]  # whoever comes first starts the fleet

NODES = (*GATEWAYS, *AGENTS)
AT_ONCE = 40  # connections to each of the four ports of each of the three gateways


@pytest.fixture
async def published(fleet: Fleet, tmp_path: Path) -> AsyncIterator[Fleet]:
    """The four services at their site, published at their ports."""
    units = private_units(fleet, tmp_path)
    try:
        await fleet.units.start_all(units)
        for door in DOORS:
            await eventually(lambda door=door: listens(fleet, door))  # type: ignore[misc]
            put(fleet, door.name, kind="tcp", port=door.public_port, targets=[door.target])
        yield fleet
    finally:
        for unit in units:
            await fleet.units.stop(unit.name)


def listens(fleet: Fleet, door: Door) -> bool:
    return visits.outcome(fleet.lab, SITE, "127.0.0.1", door.private_port) == "open"


def sockets(fleet: Fleet, *words: str) -> list[list[str]]:
    """Lines of `ss` at the site, as words; it leaves the state out where it was asked for one."""
    listed = fleet.lab.run(SITE, ["ss", "-Htn", *words], check=True).stdout
    return [line.split() for line in listed.splitlines()]


def answers(fleet: Fleet) -> bool:
    """Whether every service answers a new visitor at every gateway."""
    for gateway in GATEWAYS:
        for door in DOORS:
            try:
                with closing(Visit(fleet, gateway, door, patience_s=2)) as visit:
                    if visit.ask("/hello") != door.site:
                        return False
            except (OSError, ValueError):
                return False
    return True


async def test_the_services_listen_on_the_loopback_alone(published: Fleet) -> None:
    ports = {door.private_port for door in DOORS}
    places = {line[3] for line in sockets(published, "-l") if int(line[3].rpartition(":")[2]) in ports}

    assert places == {f"127.0.0.1:{port}" for port in ports}
    for port in ports:
        assert visits.outcome(published.lab, "nat-a", published.lab.address(SITE), port) == "refused"


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_curl_reaches_every_service_as_the_document_says(published: Fleet, gateway: str) -> None:
    lab = published.lab
    for door in DOORS:
        name = TLS_NAME if door.tls else lab.address(gateway)
        resolve = ["--resolve", f"{TLS_NAME}:{door.public_port}:{lab.address(gateway)}"]
        url = f"{'https' if door.tls else 'http'}://{name}:{door.public_port}/login?next=%2F"
        argv = ["curl", "-sS", "--max-time", "20", "--cacert", str(pem(published)), *resolve, url]
        answer = json.loads(lab.run("visitor", argv, check=True).stdout)
        assert (answer["site"], answer["path"], answer["query"]) == (door.site, "/login", "next=/")


async def test_many_visitors_are_connected_at_once_and_each_gets_its_own_answer(published: Fleet) -> None:
    with ExitStack() as stack:
        open_now = [
            (door, stack.enter_context(closing(Visit(published, gateway, door))))
            for _ in range(AT_ONCE)
            for gateway in GATEWAYS
            for door in DOORS
        ]
        for door in DOORS:  # all of them have arrived before the first one asks
            await eventually(lambda door=door: visitors_at(published, door) == AT_ONCE * len(GATEWAYS))  # type: ignore[misc]

        def ask(number: int) -> bool:
            door, visit = open_now[number]
            return visit.ask(f"/visitor/{number}") == door.site

        answered = await asyncio.gather(*(asyncio.to_thread(ask, number) for number in range(len(open_now))))
    assert answered == [True] * (AT_ONCE * len(GATEWAYS) * len(DOORS))


def visitors_at(fleet: Fleet, door: Door) -> int:
    """How many connections the program at the site has with visitors; those among the site's own do not count."""
    filters = ("state", "established", f"( sport = :{door.private_port} )")
    return sum(not line[3].startswith("127.0.0.1:") for line in sockets(fleet, *filters))


async def test_every_service_answers_again_after_every_process_was_killed(published: Fleet) -> None:
    killed = {host.name: await inhabitants(published, host.name) for host in published.lab.topology.hosts}
    del killed["backbone"]  # there the keeper lives, which does what systemd does on a server
    for pid in (pid for pids in killed.values() for pid in pids):
        with suppress(ProcessLookupError):  # a short command of a node: it has ended by itself
            os.kill(pid, signal.SIGKILL)
    for pids in killed.values():
        for pid in pids:
            await ended(pid)

    await eventually(lambda: answers(published), 60)
    await portal_answers(published)
    await truth.settled(published, 60)
    assert answers(published)


async def inhabitants(fleet: Fleet, host: str) -> list[int]:
    """Every process on the host."""
    argv = ["ip", "netns", "pids", fleet.lab.namespace(host)]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    listed, _ = await process.communicate()
    assert process.returncode == 0
    return [int(word) for word in listed.split()]


async def test_every_service_answers_again_after_a_power_cut_of_all_machines(published: Fleet, tmp_path: Path) -> None:
    units = private_units(published, tmp_path)
    for name in CONTROL:
        await published.units.kill(name)
        await published.units.stop(name)
    for unit in units:
        await published.units.stop(unit.name)
    await power_off(published, NODES)
    for gateway in GATEWAYS:
        for door in DOORS:
            assert visits.outcome(published.lab, "visitor", published.lab.address(gateway), door.public_port) != "open"

    await power_on(published, NODES)  # the nodes first: they have to wait for the others
    await published.units.start_all((*units, *published.control.units()))

    await eventually(lambda: answers(published), 60)
    await portal_answers(published)
    await truth.settled(published, 60)
    assert answers(published)
