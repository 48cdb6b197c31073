"""docs/services.md as it stands there: every command is typed, and everybody sees what the page says that he sees."""

import asyncio
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from kakuremichi.cli.exits import PARTIAL, USAGE
from kakuremichi.fleet.lab_fleet import AGENTS, GATEWAYS, PORTAL_PORT, Fleet
from kakuremichi.lab import names
from support import grpc_echo
from support.fleet import Place
from support.haproxy_upstreams import public_part
from support.private import http_target, tcp_target

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]  # whoever comes first starts the fleet

PAGE = Path(__file__).parents[2] / "docs/services.md"
LEFT_OUT = "…"
LONGEST_S = 20.0
OPERATOR = "control"


@dataclass(frozen=True, slots=True)
class Typed:
    """A command of the page. `shown` is what stands below it; None for the commands that publish."""

    host: str
    command: str
    shown: str | None = None

    @property
    def changes(self) -> bool:
        return self.host == OPERATOR and " service " in self.command


@dataclass(frozen=True, slots=True)
class Example:
    title: str
    commands: tuple[Typed, ...]


def examples() -> list[Example]:
    _, *sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    return [Example(section.partition("\n")[0], tuple(_typed(section))) for section in sections]


def _typed(section: str) -> Iterator[Typed]:
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL):
        if language == "sh":
            yield Typed(OPERATOR, block)
            continue
        _, *parts = re.split(r"^([a-z]+)\$ ", block, flags=re.MULTILINE)
        for host, said in zip(parts[::2], parts[1::2], strict=True):
            command, _, shown = said.partition("\n")
            yield Typed(host, command, shown)


def looks_like(shown: str, printed: str) -> bool:
    """Whether that is what was printed, of which the page leaves out what `…` stands for."""
    pieces = (re.escape(piece) for piece in shown.rstrip("\n").split(LEFT_OUT))
    return re.fullmatch(".*".join(pieces), printed.replace("\r", "").rstrip("\n"), re.DOTALL) is not None


@pytest.fixture(scope="module", autouse=True)
def private_programs(place: Place) -> Iterator[None]:
    """What the page says that there is at the sites, beside the lab's own."""
    lab = place.lab
    certificate = place.directory / "certificates" / "lab.pem"
    encrypted = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    encrypted.load_cert_chain(certificate)
    module = (sys.executable, "-m", "kakuremichi.lab.targets", "--site", "range")
    tcp = [word for port in range(7240, 7243) for word in ("--tcp", f"127.0.0.1:{port}")]
    udp = [word for port in (9953, 7270, 7271) for word in ("--udp", f"127.0.0.1:{port}")]
    six = ("--http", "[::1]:9970", "--tcp", "[::1]:9971", "--udp", "[::1]:9971")
    names.append(lab.namespace("site-a"), ["::1 six-a.lab.test"])
    grpc = (sys.executable, grpc_echo.__file__, "serve", "127.0.0.1:9960")
    with ExitStack() as stack:
        for argv in ((*module, *tcp, *udp, *six), grpc):
            program = stack.enter_context(lab.popen("site-a", argv, stdout=subprocess.DEVNULL))
            stack.callback(program.terminate)
        stack.enter_context(http_target(lab, "site-a", 9943, tls=encrypted))
        stack.enter_context(tcp_target(lab, "site-a", 9950, first_line))
        yield


def first_line(connection: socket.socket) -> None:
    """Send back the line that tells who comes."""
    connection.sendall(connection.makefile("rb").readline())


@pytest.fixture
def folder(fleet: Fleet, tmp_path: Path) -> Path:
    """Where the commands are typed."""
    (tmp_path / "nas-ca.pem").write_text(public_part(fleet.directory / "certificates" / "lab.pem"))
    return tmp_path


def typed(fleet: Fleet, folder: Path, host: str, command: str) -> "subprocess.CompletedProcess[str]":
    """`command` in a shell on `host`; its errors are part of what is seen there."""
    certificate = fleet.directory / "certificates" / "lab.pem"
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "CURL_CA_BUNDLE": str(certificate),
        "KAKUREMICHI_URL": f"https://{fleet.lab.address(OPERATOR)}:{PORTAL_PORT}",
        "KAKUREMICHI_TOKEN_FILE": str(fleet.control.token_file),
        "KAKUREMICHI_CA_FILE": str(fleet.control.ca_file),
    }
    return subprocess.run(
        fleet.lab.command(host, ["bash", "-c", command]), cwd=folder, env=env, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
    )  # fmt: skip


async def change(fleet: Fleet, folder: Path, step: Typed) -> str:
    """What the operator sees; afterwards every node has it."""
    done = await asyncio.to_thread(typed, fleet, folder, step.host, f"set -e\n{step.command}")
    expected = (USAGE,) if (step.shown or "").startswith("error: ") else (0, PARTIAL)  # a slow node is no failure
    assert done.returncode in expected, f"{step.command}\n{done.stdout}"
    await fleet.all_live([*GATEWAYS, *AGENTS])
    return done.stdout


async def look(fleet: Fleet, folder: Path, step: Typed) -> str:
    """What somebody sees, once it is what the page says, or at last."""
    deadline = time.monotonic() + LONGEST_S
    while True:
        printed = (await asyncio.to_thread(typed, fleet, folder, step.host, step.command)).stdout
        if looks_like(step.shown or "", printed) or time.monotonic() > deadline:
            return printed
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.title.replace(" ", "-"))
async def test_what_the_page_shows_is_what_happens(fleet: Fleet, folder: Path, example: Example) -> None:
    for name in set(re.findall(r"\b\w[\w.-]*\.lab\.test", " ".join(step.command for step in example.commands))):
        if name.partition(".")[0].removesuffix("-6") not in {host.name for host in fleet.lab.topology.hosts}:
            fleet.lab.add_name(name, *GATEWAYS)

    for step in example.commands:
        printed = await (change if step.changes else look)(fleet, folder, step)
        assert step.shown is None or looks_like(step.shown, printed), f"{step.host}$ {step.command}\n{printed}"


def test_every_example_publishes_and_shows_a_visit() -> None:
    assert len(examples()) > 10
    for example in examples():
        assert any(step.shown is None and "kakuremichi service publish" in step.command for step in example.commands)
        assert any(step.host != OPERATOR and step.shown for step in example.commands), example.title
