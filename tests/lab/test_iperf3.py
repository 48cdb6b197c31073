"""iperf3 at both ends, through a range of ports that is published for TCP and for UDP."""

import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kakuremichi.fleet.lab_fleet import Fleet
from kakuremichi.lab.units import Unit
from support import visits
from support.fleet import drop, eventually, put

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]  # whoever comes first starts the fleet

PORTS = (7701, 7702)
SIZE = 16 * 1024 * 1024
DATAGRAMS = 2000
PAYLOAD = 1200


@pytest.fixture(autouse=True)
async def published(fleet: Fleet) -> AsyncIterator[None]:
    """A server of iperf3 on each port of the range, on the loopback of site-b."""
    namespace = fleet.lab.namespace("site-b")
    for port in PORTS:
        argv = ("iperf3", "-s", "-B", "127.0.0.1", "-p", str(port))
        await fleet.units.start(Unit(name=f"iperf3-{port}", argv=argv, namespace=namespace))
    for port in PORTS:
        await eventually(lambda port=port: visits.outcome(fleet.lab, "site-b", "127.0.0.1", port) == "open")  # type: ignore[misc]
    for kind in ("tcp", "udp"):
        targets = [{"agent": "site-b", "port": PORTS[0]}]
        put(fleet, f"perf-{kind}", kind=kind, port=PORTS[0], last_port=PORTS[-1], targets=targets)
    yield
    for port in PORTS:
        await fleet.units.stop(f"iperf3-{port}")


def iperf3(fleet: Fleet, gateway: str, port: int, *words: str) -> Any:
    """What it tells of the end."""
    argv = ["iperf3", "-c", fleet.lab.address(gateway), "-p", str(port), "-J", *words]
    done = fleet.lab.run("visitor", argv, timeout=60)
    answer = json.loads(done.stdout)
    assert "error" not in answer, answer["error"]
    return answer["end"]


@pytest.mark.parametrize("direction", [(), ("--reverse",)])
async def test_tcp_on_every_port_of_the_range_at_once(fleet: Fleet, direction: tuple[str, ...]) -> None:
    with ThreadPoolExecutor() as threads:
        ends = threads.map(lambda port: iperf3(fleet, "gw1", port, "-n", str(SIZE), "-P", "2", *direction), PORTS)

    for end in ends:
        assert end["sum_sent"]["bytes"] >= SIZE
        assert end["sum_received"]["bytes"] > 0  # what was under way at the end is not counted


@pytest.mark.parametrize("direction", [(), ("--reverse",)])
async def test_udp_datagrams_arrive_in_both_directions(fleet: Fleet, direction: tuple[str, ...]) -> None:
    words = ("--udp", "-b", "20M", "-l", str(PAYLOAD), "-n", str(DATAGRAMS * PAYLOAD), *direction)

    total = iperf3(fleet, "gw2", PORTS[-1], *words)["sum"]

    assert total["packets"] >= DATAGRAMS
    assert total["lost_packets"] < total["packets"] / 2  # a starved machine drops some


async def test_udp_needs_the_service_of_udp(fleet: Fleet) -> None:
    drop(fleet, "/services/perf-udp")

    argv = ["iperf3", "-c", fleet.lab.address("gw1"), "-p", str(PORTS[0]), "-J", "--udp", "-n", "1M"]
    done = fleet.lab.run("visitor", argv, timeout=60)

    assert "error" in json.loads(done.stdout)
