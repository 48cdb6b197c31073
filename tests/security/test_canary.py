"""No private key and no token of a running fleet is anywhere but in its one place. Canaries show that we would see it.

The fleet enrols, publishes, rotates, is restarted, and loses a node by revocation, while everything that can be heard
is written down: NATS by a subscriber to `>` in each account, the network by tcpdump, PostgreSQL by a dump, logs,
traces, command lines, environments, every file. TLS hides the bus from the network, so the subscribers are needed; and
that nothing is said in plain text takes tcpdump to see.
"""

import asyncio
import base64
import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest

from kakuremichi.bus.jwt import Signer
from kakuremichi.fleet.lab_fleet import NATS_PORT, PORTAL_PORT, SERVICES, Fleet, fleet_in
from kakuremichi.fleet.visitor import fetch_all
from kakuremichi.lab.internet import Lab
from kakuremichi.lab.units import Unit
from support.capture import Capture, Stream, streams
from support.secrets_of_fleet import (
    Secret,
    database_dump,
    files_below,
    files_elsewhere,
    leaks,
    processes_of,
    raw_secret,
    secrets_of,
)
from support.spies import Spies

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]

GATEWAYS, AGENTS = ("gw1", "gw2"), ("site-a", "site-b")
NODES = (*GATEWAYS, *AGENTS)
WEB_A, WEB_B = SERVICES[0], SERVICES[1]

# What may listen on TCP, by the host where it does, and what a stranger needs there.
LISTENERS = {
    "control": {8080: "TLS, a token or a session", 4222: "TLS first, a JWT and its key"},
    "gw1": {80: "visitors", 443: "visitors", 15080: "visitors that nftables leads there; rejected otherwise"},
    "gw2": {80: "visitors", 443: "visitors", 15080: "visitors that nftables leads there; rejected otherwise"},
    "site-a": {8080: "the private service itself"},
    "site-b": {},
}


@dataclass
class Place:
    """A fleet, whoever listens to it, and when that began (Unix seconds)."""

    lab: Lab
    directory: Path
    listeners: Path  # the folder of what was captured: it is not the fleet's
    began: float = field(default_factory=time.time)
    captures: list[Capture] = field(default_factory=list)
    join_tokens: dict[str, str] = field(default_factory=dict)
    signer: Signer | None = None

    def capture(self) -> None:
        """On the control host with its loopback, and where everything between hosts passes."""
        self.captures = [Capture(self.lab, host, self.listeners / f"{host}.pcap") for host in ("control", "backbone")]

    @property
    def spies(self) -> Spies:
        assert self.signer is not None
        return Spies(self.signer)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """A control plane that lets spies in, a gateway and an agent."""
    lab = Lab(f"n{os.getpid()}-")
    place = Place(lab, Path(tempfile.mkdtemp(prefix="kk-n-")), Path(tempfile.mkdtemp(prefix="kk-heard-")))
    lab.up(fresh=True, bound=True)
    try:
        place.capture()
        asyncio.run(_begin(place))
        yield place
    finally:
        asyncio.run(_end(place))
        for capture in place.captures:
            capture.discard()
        lab.down()
        shutil.rmtree(place.directory, ignore_errors=True)
        shutil.rmtree(place.listeners, ignore_errors=True)


async def _begin(place: Place) -> None:
    async with fleet_in(place.lab, place.directory) as fleet:
        fleet.control.prepare()
        place.signer = Spies.admit(fleet)
        await fleet.units.start_all(fleet.control.units())
        await fleet._wait("the portal", fleet._portal_answers)
        await fleet.start_nodes(GATEWAYS[:1], AGENTS[:1])
        place.join_tokens |= fleet.join_tokens


async def _end(place: Place) -> None:
    async with fleet_in(place.lab, place.directory) as fleet:
        await fleet.units.down()


@pytest.fixture
async def fleet(place: Place) -> AsyncIterator[Fleet]:
    async with fleet_in(place.lab, place.directory) as fleet:
        fleet.join_tokens |= place.join_tokens
        yield fleet


async def live(fleet: Fleet) -> list[Secret]:
    """One life of a fleet, and its secrets as they were along the way."""
    await fleet.start_nodes(GATEWAYS[1:], AGENTS[1:])
    await fleet.publish((WEB_A, WEB_B))
    assert all(fetch.ok for fetch in fetch_all(fleet.lab, (WEB_A, WEB_B), GATEWAYS))
    found = secrets_of(fleet, NODES)
    api = fleet.api()
    for path in ("/agents/site-a/rotate", "/gateways/gw1/rotate"):
        api.call("POST", f"{path}?wait=applied&timeout=25", {})
    api.close()
    for unit in ("site-b", "gw2", "registry"):
        await fleet.units.restart(unit)
    await fleet._wait("all nodes again", lambda: fleet._all_live(list(NODES)))
    found += secrets_of(fleet, NODES)
    api = fleet.api()
    api.call("POST", "/agents/site-b/revoke?wait=applied&timeout=25", {})
    api.close()
    return found


@dataclass
class Ears:
    """Everywhere that something can be read of a fleet, besides by its own people."""

    fleet: Fleet
    place: Place
    spies: Spies
    streams: list[Stream] = field(default_factory=list)

    async def read(self) -> list[tuple[str | Path, bytes]]:
        """Name and content of each place. The captures end with it."""
        units = {name: status.pid for name, status in (await self.fleet.units.status()).items() if status.pid}
        return [
            *((f"NATS account {name}", bytes(heard)) for name, heard in self.spies.heard.items()),
            *self._network(),
            ("PostgreSQL", database_dump(units["postgres"], self.fleet.control._embedded_dsn())),
            *processes_of(units.values()),
            *files_below(self.fleet.directory),
            *files_elsewhere(self.place.began, self.fleet.directory, self.place.listeners),
        ]

    def _network(self) -> Iterator[tuple[str, bytes]]:
        mark = secrets.token_hex(16)
        say(self.fleet.lab, "visitor", "203.0.113.100", mark)
        for capture in self.place.captures:
            capture.settle(mark.encode())
            packets = capture.stop()
            self.streams += streams(packets)
            yield f"packets at {capture.host}", packets
        yield "TCP streams", b"\0".join(stream.payload for stream in self.streams)


def say(lab: Lab, host: str, address: str, text: str) -> None:
    """A datagram that nobody takes."""
    lab.run(host, ["bash", "-c", f"echo {text} > /dev/udp/{address}/9"], check=True)


def shout(lab: Lab, host: str, address: str, port: int, text: str) -> None:
    """The text to somebody who listens on TCP, in two packets."""
    half = len(text) // 2
    send = f"exec 3<>/dev/tcp/{address}/{port}; printf %s {text[:half]} >&3; sleep 0.2; printf %s {text[half:]} >&3"
    lab.run(host, ["bash", "-c", send], check=True)


PLANTED = raw_secret("canary", secrets.token_bytes(32))
CANARY = PLANTED.forms[1].decode()
STRAYS = tuple(Path(folder, f"kk-stray-{os.getpid()}") for folder in ("/tmp", "/var/tmp", "/run", "/dev/shm", "/root"))  # noqa: S108


async def plant(fleet: Fleet, spies: Spies) -> list[str]:
    """The same canary in every kind of place; the places where it has to be found at the end of the fleet's life."""
    await spies.publish("canary", CANARY.encode())
    connection = await asyncpg.connect(fleet.control._embedded_dsn())
    await connection.execute(
        "insert into access_log (actor, action, code, detail) values ('canary', 'canary', '', $1)", CANARY
    )
    await connection.close()
    written = [path for kind in ("*.log", "*.trace") for path in fleet.directory.rglob(kind)]
    for path in written:
        with path.open("a") as out:
            out.write(CANARY + "\n")
    (fleet.directory / "stray").write_bytes(PLANTED.forms[0])
    for path in STRAYS:
        path.write_bytes(PLANTED.forms[0])
    namespace = fleet.lab.namespace("gw1")
    await fleet.units.start(Unit(name="canary", argv=("sleep", "600"), namespace=namespace, env={"CANARY": CANARY}))
    await fleet.units.start(Unit(name="canary2", argv=("sh", "-c", f"sleep 600 # {CANARY}"), namespace=namespace))
    say(fleet.lab, "visitor", "203.0.113.100", CANARY)
    shout(fleet.lab, "visitor", "203.0.113.1", 80, CANARY)
    assert {path.suffix for path in written} == {".log", ".trace"}
    return [
        *("NATS account SYS", "NATS account CP", "NATS account EDGE", "PostgreSQL", "cmdline of", "environ of"),
        *("packets at control", "packets at backbone", "TCP streams", str(fleet.directory / "stray")),
        *map(str, (*written, *STRAYS)),
    ]


@contextmanager
def strays() -> Iterator[None]:
    try:
        yield
    finally:
        for path in STRAYS:
            path.unlink(missing_ok=True)


async def test_no_secret_of_a_fleets_life_is_anywhere_but_in_its_place(fleet: Fleet, place: Place) -> None:
    spies = place.spies
    await spies.listen(fleet)
    with strays():
        expected = await plant(fleet, spies)
        found = await live(fleet)
        ears = Ears(fleet, place, spies)
        everywhere = await ears.read()
    await spies.close()

    seen = leaks([PLANTED], everywhere)
    assert [where for where in expected if not any(f" in {where}" in leak for leak in seen)] == []
    assert len({secret.name for secret in found}) > 25, "too few secrets were looked for"
    assert leaks(found, everywhere) == []
    assert b"feed.pool.default" in spies.heard["CP"]
    assert b"feed.pool.default" in spies.heard["EDGE"]
    assert b"$SYS.ACCOUNT" in spies.heard["SYS"]
    assert in_plain_text(ears.streams, NATS_PORT) == []
    assert in_plain_text(ears.streams, PORTAL_PORT) == []


def in_plain_text(heard: list[Stream], port: int) -> list[bytes]:
    """How connections with this port begin that do not begin with a TLS handshake, of both sides."""
    concerned = [stream for stream in heard if port in (stream.source_port, stream.destination_port)]
    begun = [stream.payload for stream in concerned if stream.whole and stream.payload]
    assert begun, f"no connection with port {port} was captured"
    return [payload[:64] for payload in begun if not payload.startswith(b"\x16\x03")]


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
    states = {name: fleet.node_host(name).directory / "state" for name in NODES}
    here = {name for name, state in states.items() if state.exists()}  # the whole life of this fleet is another test
    assert here >= {GATEWAYS[0], AGENTS[0]}
    for folder in (fleet.control.directory, *(states[name] for name in here)):
        # The control plane's lets PostgreSQL's own user pass through (x), and nobody look around.
        assert folder.stat().st_mode & 0o077 in (0, 0o001)
        for path in folder.rglob("*"):
            if re.search(r"\.(seed|creds|key|token)$", path.name):
                assert path.stat().st_mode & 0o777 == 0o600, path


@pytest.mark.parametrize(
    "written",
    [
        bytes, lambda raw: raw.hex().encode(), base64.b64encode, base64.urlsafe_b64encode,
        lambda raw: json.dumps({"x": base64.b64encode(raw).decode()}).encode(),
        *(lambda raw, n=n: base64.b64encode(b"{" * n + raw + b"}") for n in range(1, 7)),
        *(lambda raw, n=n: base64.urlsafe_b64encode(b"{" * n + raw + b"}}") for n in range(1, 4)),
    ],
)  # fmt: skip
def test_the_forms_of_a_secret_are_found(written: Callable[[bytes], bytes]) -> None:
    raw = secrets.token_bytes(32)
    secret = raw_secret("s", raw)
    assert leaks([secret], [("here", b"before " + written(raw) + b" after")]) == ["s in here"]
    assert leaks([secret], [("here", b"nothing")]) == []
