"""A NATS of one's own, certificates of one's own, trust keys in a drawer: by the commands that the operator runs."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kakuremichi.bus.own_server import TLS_FILES, OwnServer
from kakuremichi.bus.server import find_nats_server
from kakuremichi.fleet.ca import Ca
from kakuremichi.node.state import NodeState
from kakuremichi.wire.enrolment import parse_join_token

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PROGRAMS = Path(sys.executable).parent


class Operator:
    """Runs the program as a person does; its CA is one that the whole machine believes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = Ca(folder / "public")
        self.ca.prepare({"127.0.0.1", "localhost"})
        self.env = os.environ | {
            "SSL_CERT_FILE": str(self.ca.certificate),
            "KAKUREMICHI_CONTEXT": str(folder / "context.json"),
            "KAKUREMICHI_STATE": str(folder / "site-a"),
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        }

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [PROGRAMS / "kakuremichi", *words], capture_output=True, text=True, env=self.env, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *argv: str | Path) -> "subprocess.Popen[str]":
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=self.env)


@pytest.fixture
def operator(run_dir: Path) -> Operator:
    return Operator(run_dir)


@pytest.fixture
def own_nats(operator: Operator, free_port: Callable[[], int]) -> Iterator[str]:
    """A nats-server with the configuration that `trust init` wrote, its addresses and paths adapted."""
    operator.run("trust", "init", "--keys", "3", "--threshold", "2", str(operator.folder / "drawer"))
    conf = operator.folder / "drawer" / "server" / "nats.conf"
    port, usual = free_port(), OwnServer()
    for there, here in (
        (usual.listen, f"127.0.0.1:{port}"),
        (usual.monitor, f"127.0.0.1:{free_port()}"),
        (str(usual.store_dir), str(operator.folder / "jetstream")),
        (str(TLS_FILES.certificate), str(operator.ca.server_certificate)),
        (str(TLS_FILES.key), str(operator.ca.server_key)),
    ):
        text = conf.read_text()
        assert there in text
        conf.write_text(text.replace(there, here))
    with operator.start(find_nats_server(), "-c", conf, "-l", operator.folder / "nats.log") as server:
        yield f"tls://127.0.0.1:{port}"
        server.terminate()


@pytest.fixture
def portal(operator: Operator, own_nats: str, free_port: Callable[[], int]) -> Iterator[str]:
    directory, port = str(operator.folder / "control"), free_port()
    operator.run(
        "up", "--directory", directory, "--portal-port", str(port), "--nats-url", own_nats,
        "--trust", str(operator.folder / "drawer" / "server"),
        "--tls-certificate", str(operator.ca.server_certificate), "--tls-key", str(operator.ca.server_key),
    )  # fmt: skip
    yield f"https://127.0.0.1:{port}"
    operator.run("down", "--directory", directory)


def test_a_node_joins_a_control_plane_whose_servers_are_the_operators_own(operator: Operator, portal: str) -> None:
    line = operator.run("token", "create", "--role", "agent", "--name", "site-a")
    token = parse_join_token(line.split()[1])
    assert (token.url, token.ca) == (portal, b"")  # no CA of ours: the machine's are believed
    script = operator.folder / "line.sh"
    script.write_text(line)
    site = operator.start("sh", script)
    pending = operator.folder / "pending.json"
    until(lambda: "pending" in operator.run("get", "agents"))

    operator.run("trust", "pending", "-o", str(pending))
    for number in (1, 2):
        key = operator.folder / "drawer" / f"trust-{number}.key"
        operator.run("trust", "sign", str(pending), "--key", str(key), "--yes")
    operator.run("trust", "submit", str(pending))

    with site:
        said, _ = site.communicate(timeout=90)
    assert said == "agent site-a of pool default: enrolled\n"
    enrolment = NodeState(operator.folder / "site-a").enrolment()
    assert enrolment is not None
    assert enrolment.answer.bus.url.startswith("tls://")
    assert not (operator.folder / "control" / "tls").exists()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)
