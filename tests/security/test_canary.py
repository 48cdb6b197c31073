"""No private key and no token of a running fleet is anywhere but in its one place. Canaries show that we would see it.

The fleet enrols, publishes, rotates, is restarted, and loses a node by revocation, while everything that can be heard
is written down: NATS by a subscriber to `>` in each account, the network by its packets, PostgreSQL, logs, traces,
command lines, environments, every file.
"""

import asyncio
import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from kakuremichi.bus.jwt import Signer
from kakuremichi.fleet.lab_fleet import SERVICES, Fleet, fleet_in
from kakuremichi.fleet.visitor import fetch_all
from kakuremichi.lab.internet import Lab
from kakuremichi.lab.units import Unit
from support.secrets_of_fleet import (
    Secret,
    Spies,
    Wire,
    files_below,
    leaks,
    processes_of,
    raw_secret,
    secrets_of,
)

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]

GATEWAYS, AGENTS = ("gw1", "gw2"), ("site-a", "site-b")
NODES = (*GATEWAYS, *AGENTS)
WEB_A, WEB_B = SERVICES[0], SERVICES[1]

# What may listen on TCP, by the host where it does, and what a stranger needs there.
LISTENERS = {
    "control": {8080: "TLS, a token or a session", 4222: "TLS first, a JWT and its key"},
    "gw1": {80: "visitors", 443: "visitors"},
    "gw2": {80: "visitors", 443: "visitors"},
    "site-a": {8080: "the private service itself"},
    "site-b": {},
}


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Lab, Path, Signer]]:
    """A control plane that lets spies in, a gateway and an agent."""
    lab, directory = Lab(f"y{os.getpid()}-"), Path(tempfile.mkdtemp(prefix="kk-y-"))
    lab.up(fresh=True, bound=True)
    try:
        yield lab, directory, asyncio.run(_begin(lab, directory))
    finally:
        asyncio.run(_end(lab, directory))
        lab.down()
        shutil.rmtree(directory, ignore_errors=True)


async def _begin(lab: Lab, directory: Path) -> Signer:
    async with fleet_in(lab, directory) as fleet:
        fleet.control.prepare()
        signer = Spies.admit(fleet)
        await fleet.units.start_all(fleet.control.units())
        await fleet._wait("the portal", fleet._portal_answers)
        await fleet.start_nodes(GATEWAYS[:1], AGENTS[:1])
        return signer


async def _end(lab: Lab, directory: Path) -> None:
    async with fleet_in(lab, directory) as fleet:
        await fleet.units.down()


@pytest.fixture
async def fleet(place: tuple[Lab, Path, Signer]) -> AsyncIterator[Fleet]:
    async with fleet_in(*place[:2]) as fleet:
        yield fleet


async def live(fleet: Fleet) -> list[Secret]:
    """One life of a fleet, and its secrets as they were along the way."""
    await fleet.start_nodes(GATEWAYS[1:], AGENTS[1:])
    await fleet.publish((WEB_A, WEB_B))
    assert all(fetch.ok for fetch in fetch_all(fleet.lab, (WEB_A, WEB_B), GATEWAYS))
    found = secrets_of(fleet, NODES)
    api = fleet.api()
    for path in ("/agents/site-a/rotate", "/gateways/gw1/rotate"):
        api.call("POST", f"{path}?wait=applied&timeout=10", {})
    api.close()
    for unit in ("site-b", "gw2", "registry"):
        await fleet.units.restart(unit)
    await fleet._wait("all nodes again", lambda: fleet._all_live(list(NODES)))
    found += secrets_of(fleet, NODES)
    api = fleet.api()
    api.call("POST", "/agents/site-b/revoke?wait=applied&timeout=10", {})
    api.close()
    return found


async def database_rows(fleet: Fleet) -> bytes:
    connection = await asyncpg.connect(fleet.control._embedded_dsn())
    try:
        tables = await connection.fetch("select tablename from pg_tables where schemaname = 'public'")
        rows = [await connection.fetch(f'select t::text from "{table[0]}" t') for table in tables]  # noqa: S608
    finally:
        await connection.close()
    return "\n".join(row[0] for table in rows for row in table).encode()


async def everywhere(fleet: Fleet, spies: Spies, wire: Wire) -> list[tuple[str | Path, bytes]]:
    units = [status.pid for status in (await fleet.units.status()).values() if status.pid]
    return [
        ("NATS", bytes(spies.heard)),
        ("network", bytes(wire.heard)),
        ("PostgreSQL", await database_rows(fleet)),
        *processes_of(units),
        *files_below(fleet.directory),
    ]


async def plant(fleet: Fleet, spies: Spies) -> list[str]:
    """The same canary in every kind of place; the names of the places where it has to be found."""
    canary = PLANTED.forms[1].decode()
    await spies.publish("canary", canary.encode())
    connection = await asyncpg.connect(fleet.control._embedded_dsn())
    await connection.execute(
        "insert into access_log (actor, action, code, detail) values ('canary', 'canary', '', $1)", canary
    )
    await connection.close()
    for path in (fleet.node_host("gw1").directory / "gateway.log", fleet.node_host("site-a").directory / "agent.trace"):
        with path.open("a") as out:
            out.write(canary + "\n")
    (fleet.directory / "stray").write_bytes(PLANTED.forms[0])
    sleeper = Unit(name="canary", argv=("sleep", "600"), namespace=fleet.lab.namespace("gw1"), env={"CANARY": canary})
    await fleet.units.start(sleeper)
    speaker = Unit(name="canary2", argv=("sh", "-c", f"sleep 600 # {canary}"), namespace=fleet.lab.namespace("gw1"))
    await fleet.units.start(speaker)
    fleet.lab.run("visitor", ["bash", "-c", f"echo {canary} > /dev/udp/203.0.113.100/9"])
    await asyncio.sleep(0.3)
    return ["NATS", "network", "PostgreSQL", "cmdline of", "environ of", "gateway.log", "agent.trace", "stray"]


PLANTED = raw_secret("canary", secrets.token_bytes(32))


async def test_no_secret_of_a_fleets_life_is_anywhere_but_in_its_place(
    fleet: Fleet, place: tuple[Lab, Path, Signer]
) -> None:
    spies = Spies(place[2])
    await spies.listen(fleet)
    wire = Wire(fleet)
    found = await live(fleet)
    assert len({secret.name for secret in found}) > 25, "too few secrets were looked for"

    before = await everywhere(fleet, spies, wire)
    assert leaks(found, before) == []
    assert b"feed.pool.default" in spies.heard
    assert b"$SYS.ACCOUNT" in spies.heard
    assert b"feed.pool" not in wire.heard, "the bus crossed the network in plain text"

    expected = await plant(fleet, spies)
    seen = leaks([PLANTED], await everywhere(fleet, spies, wire))
    assert [place for place in expected if not any(place in leak for leak in seen)] == []
    wire.close()
    await spies.close()


async def test_nothing_unauthenticated_listens_on_tcp(fleet: Fleet) -> None:
    """In every namespace of the fleet; also the monitors of HAProxy and NATS are no TCP listeners at all."""
    for host, allowed in LISTENERS.items():
        ports = set()
        for line in fleet.lab.run(host, ["ss", "-Hltn"]).stdout.splitlines():
            ports.add(int(line.split()[3].rpartition(":")[2]))  # loopback too: other users there are strangers
        assert ports - set(allowed) == set(), f"{host}: {ports - set(allowed)} listen"


async def test_our_sockets_are_the_owners_alone(fleet: Fleet) -> None:
    sockets = [path for path in fleet.directory.rglob("*") if path.is_socket()]
    assert [path.name for path in sockets if path.name == "keeper.sock"]
    for path in sockets:
        inside = [
            parent for parent in path.parents if parent.is_relative_to(fleet.directory) and parent != fleet.directory
        ]
        private = path.stat().st_mode & 0o077 == 0 or any(parent.stat().st_mode & 0o077 == 0 for parent in inside)
        assert private, f"{path} can be reached by other users"


async def test_the_keeper_answers_nobody_else(fleet: Fleet) -> None:
    """Also when its folder and socket were opened by mistake: the peer's credentials are looked at."""
    path = fleet.directory / "keeper" / "keeper.sock"
    script = (
        "import socket,sys,os; os.setuid(65534); s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        'os.write(s.fileno(), b\'{"do":"status"}\\n\'); print(s.recv(65536))'
    )
    opened = [*path.parents][: len(path.relative_to("/").parts) - 2]
    modes = {each: each.stat().st_mode for each in [path, *opened]}
    try:
        for each in modes:
            each.chmod(0o777)
        stranger = await asyncio.to_thread(
            subprocess.run, ["python3", "-c", script, str(path)], capture_output=True, text=True, check=False
        )
    finally:
        for each, mode in modes.items():
            each.chmod(mode)
    assert "units" not in stranger.stdout, stranger
    assert stranger.returncode != 0 or stranger.stdout.strip() == "b''"
    assert await fleet.units.status()


async def test_state_folders_are_private(fleet: Fleet) -> None:
    for folder in (fleet.control.directory, *(fleet.node_host(name).directory / "state" for name in NODES)):
        # The control plane's lets PostgreSQL's own user pass through (x), and nobody look around.
        assert folder.stat().st_mode & 0o077 in (0, 0o001)
        for path in folder.rglob("*"):
            if re.search(r"\.(seed|creds|key|token)$", path.name):
                assert path.stat().st_mode & 0o777 == 0o600, path


def test_the_forms_of_a_secret_are_found() -> None:
    secret = raw_secret("s", bytes(range(32)))
    for text in (
        bytes(range(32)),
        bytes(range(32)).hex().encode(),
        json.dumps({"x": secret.forms[3].decode()}).encode(),
    ):
        assert leaks([secret], [("here", b"before " + text + b" after")]) == ["s in here"]
    assert leaks([secret], [("here", b"nothing")]) == []
