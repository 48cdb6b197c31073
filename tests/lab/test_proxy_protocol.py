"""The visitor's own address reaches a TCP target by PROXY protocol, whatever family he comes by."""

import queue
import socket
import struct
from collections.abc import Iterator

import pytest

from kakuremichi.fleet.lab_fleet import Fleet
from support import visits
from support.fleet import put
from support.private import tcp_target

pytestmark = [pytest.mark.root, pytest.mark.slow]

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"  # of version 2


@pytest.fixture
def heads(fleet: Fleet) -> Iterator["queue.Queue[bytes]"]:
    """What each connection to 127.0.0.1:9700 of site-a began with, up to the visitor's own first line."""
    begun: queue.Queue[bytes] = queue.Queue()

    def serve(connection: socket.socket) -> None:
        data = b""
        while not data.endswith(b"hello\n"):
            data += connection.recv(4096)
        begun.put(data.removesuffix(b"hello\n"))
        connection.sendall(b"welcome\n")

    with tcp_target(fleet.lab, "site-a", 9700, serve):
        yield begun


def visit(fleet: Fleet, address: str, port: int) -> tuple[str, int]:
    """The visitor's own address and port, after he was answered."""
    with visits.connect(fleet.lab, "visitor", address, port) as connection:
        connection.sendall(b"hello\n")
        assert connection.makefile("rb").readline() == b"welcome\n"
        host, own_port, *_ = connection.getsockname()
        return host, own_port


async def test_version_1_and_2_name_the_visitor_and_changes_are_followed(
    fleet: Fleet, heads: "queue.Queue[bytes]"
) -> None:
    targets = [{"agent": "site-a", "port": 9700}]
    put(fleet, "told", kind="tcp", port=9700, targets=targets, options={"upstream": {"proxy_protocol": 1}})
    for address in (fleet.lab.address("gw1"), fleet.lab.address6("gw1")):
        host, port = visit(fleet, address, 9700)
        family = "TCP6" if ":" in host else "TCP4"
        assert heads.get(timeout=5).decode().split() == ["PROXY", family, host, address, str(port), "9700"]

    put(fleet, "told", kind="tcp", port=9700, targets=targets, options={"upstream": {"proxy_protocol": 2}})
    host, port = visit(fleet, fleet.lab.address("gw2"), 9700)
    head = heads.get(timeout=5)
    assert head.startswith(SIGNATURE)
    said, _, said_port, _ = struct.unpack("!4s4sHH", head[16:28])
    assert (socket.inet_ntoa(said), said_port) == (host, port)

    put(fleet, "told", kind="tcp", port=9700, targets=targets)
    visit(fleet, fleet.lab.address("gw3"), 9700)
    assert heads.get(timeout=5) == b""


async def test_the_allow_list_comes_before_haproxy(fleet: Fleet, heads: "queue.Queue[bytes]") -> None:
    office = fleet.lab.address("office")
    put(
        fleet, "told", kind="tcp", port=9701, sources=[f"{office}/32"], targets=[{"agent": "site-a", "port": 9700}],
        options={"upstream": {"proxy_protocol": 2}},
    )  # fmt: skip
    assert visits.outcome(fleet.lab, "stranger", fleet.lab.address("gw1"), 9701) == "silence"
    assert visits.outcome(fleet.lab, "office", fleet.lab.address("gw1"), 9701) == "open"
