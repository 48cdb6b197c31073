"""The sites' private services answer as their module says, through a router and back."""

import hashlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kakuremichi.lab.internet import Lab
from kakuremichi.lab.targets import pattern

pytestmark = pytest.mark.root

HTTP, TCP, UDP = 8080, 7000, 7001


@pytest.fixture(scope="module", autouse=True)
def target(lab: Lab) -> Iterator[None]:
    """The services of a site, put on the control host so that others reach them without a tunnel."""
    address = lab.address("control")
    argv = [sys.executable, "-m", "kakuremichi.lab.targets", "--site", "site-x"]
    argv += ["--http", f"{address}:{HTTP}", "--tcp", f"{address}:{TCP}", "--udp", f"{address}:{UDP}"]
    process = lab.popen("control", argv, stdout=subprocess.DEVNULL)
    for _ in range(200):
        if lab.run("control", ["ss", "-Hltn", f"sport = :{TCP}"]).stdout:
            break
        time.sleep(0.05)
    yield
    process.terminate()
    assert process.wait(5) == 0


def curl(lab: Lab, path: str, *options: str, stdin: str | None = None) -> str:
    argv = ["curl", "-sS", "--max-time", "10", *options, f"http://control.lab.test:{HTTP}{path}"]
    return lab.run("site-a", argv, stdin=stdin, check=True).stdout


def test_http_says_who_was_reached_and_what_arrived(lab: Lab) -> None:
    answer: dict[str, Any] = json.loads(curl(lab, "/a/b?c=d", "-H", "X-Colour: indigo"))
    assert (answer["site"], answer["method"], answer["path"], answer["query"]) == ("site-x", "GET", "/a/b", "c=d")
    assert ["X-Colour", "indigo"] in answer["headers"]
    assert answer["peer"] == lab.address("nat-a")


@pytest.mark.parametrize("count", [0, 1, 1_000_000])
def test_bytes_are_the_pattern(lab: Lab, count: int) -> None:
    digest = lab.run(
        "site-a", ["sh", "-c", f"curl -sS --max-time 10 http://control.lab.test:{HTTP}/bytes/{count} | sha256sum"]
    )
    assert digest.stdout.split()[0] == hashlib.sha256(pattern(count)).hexdigest()


def test_an_upload_is_hashed(lab: Lab) -> None:
    body = "hidden path " * 100_000
    answer = json.loads(curl(lab, "/upload", "-T", "-", stdin=body))
    assert answer == {"site": "site-x", "bytes": len(body), "sha256": hashlib.sha256(body.encode()).hexdigest()}


def test_status_and_events(lab: Lab) -> None:
    assert curl(lab, "/status/503", "-o", "/dev/null", "-w", "%{http_code}") == "503"
    assert curl(lab, "/sse/2") == 'id: 0\ndata: {"site": "site-x"}\n\nid: 1\ndata: {"site": "site-x"}\n\n'


def test_tcp_greets_and_echoes(lab: Lab) -> None:
    with lab.in_namespace("visitor"):
        connection = socket.create_connection((lab.address("control"), TCP), timeout=5)
    with connection, connection.makefile("rwb") as stream:
        assert stream.readline() == b"hello from site-x\n"
        stream.write(b"ping\n")
        stream.flush()
        assert stream.readline() == b"ping\n"


def test_udp_echoes(lab: Lab) -> None:
    with lab.in_namespace("visitor"):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client:
        client.settimeout(5)
        client.sendto(b"ping", (lab.address("control"), UDP))
        assert client.recv(100) == b"ping"
