"""What visitors did is told by the API: by service and gateway, and kept when HAProxy is loaded anew."""

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from kakuremichi.fleet.lab_fleet import GATEWAYS, Fleet
from kakuremichi.lab.units import Unit
from support import visits
from support.fleet import eventually, get, put
from support.private import http_target

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]  # whoever comes first starts the fleet

HOST = f"counted-{os.getpid()}.lab.test"
WEB_PORT, TCP_PORT, UDP_PORT = 9870, 7650, 7651
LARGE = b"x" * 2000


async def told(fleet: Fleet, service: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The answer of all gateways, once it holds. A gateway may tell again what it told a second ago."""
    answers: list[dict[str, Any]] = []

    def look() -> bool:
        answers.append(get(fleet, f"/services/{service}/counters?timeout=5"))
        return answers[-1]["silent"] == [] and answers[-1]["errors"] == [] and holds(answers[-1])

    try:
        await eventually(look, within_s=40)
    except TimeoutError:
        pytest.fail(f"never so: {answers[-1]}")
    return answers[-1]


def at(answer: dict[str, Any], gateway: str) -> dict[str, Any]:
    return next(row for row in answer["gateways"] if row["node"] == gateway)


def classes(counted: dict[str, Any]) -> list[int]:
    return [counted["statuses"][name] for name in ("2xx", "3xx", "4xx", "5xx")]


async def test_requests_are_counted_by_status_at_each_gateway_also_over_a_reload(fleet: Fleet) -> None:
    service = {"kind": "http", "host": HOST, "targets": [{"agent": "site-a", "port": WEB_PORT}]}
    ask = partial(visits.http_get, fleet.lab, host=HOST)
    put(fleet, "counted-web", **service, options={"limits": {"body": 1000}})
    await told(fleet, "counted-web", lambda answer: len(answer["gateways"]) == len(GATEWAYS))
    with http_target(fleet.lab, "site-a", WEB_PORT):
        assert [ask(gateway).status for gateway in ("gw1", "gw1", "gw1", "gw2")] == [200] * 4
        assert ask("gw1", method="POST", body=LARGE).status == 413
    assert ask("gw2").status == 503

    before = await told(fleet, "counted-web", lambda answer: classes(answer["total"]) == [4, 0, 1, 1])
    assert [classes(at(before, gateway)) for gateway in GATEWAYS] == [[3, 0, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]]
    assert before["total"]["requests"] == 6
    assert at(before, "gw1")["denied"] == 1
    assert at(before, "gw2")["connect_errors"] > 0
    assert before["total"]["bytes_in"] > 0
    assert before["total"]["bytes_out"] > 0

    # Rules are the configuration's, so other limits are another configuration.
    put(fleet, "counted-web", **service, options={"limits": {"body": 1001, "rate": 5000}})
    with http_target(fleet.lab, "site-a", WEB_PORT):
        assert [ask(gateway).status for gateway in GATEWAYS] == [200] * 3

    after = await told(fleet, "counted-web", lambda answer: classes(answer["total"]) == [7, 0, 1, 1])
    assert [classes(at(after, gateway)) for gateway in GATEWAYS] == [[4, 0, 1, 0], [2, 0, 0, 1], [1, 0, 0, 0]]
    assert after["total"]["bytes_out"] > before["total"]["bytes_out"]


async def test_connections_of_tcp_are_counted_with_those_that_are_open_and_those_beyond_a_limit(fleet: Fleet) -> None:
    target = [{"agent": "site-b", "port": 7007}]
    put(fleet, "counted-tcp", kind="tcp", port=TCP_PORT, targets=target, options={"limits": {"connections": 2}})
    address = fleet.lab.address("gw1")
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(visits.connect(fleet.lab, "visitor", address, TCP_PORT))
        held = await told(fleet, "counted-tcp", lambda answer: answer["total"]["open"] == 2)
        assert visits.outcome(fleet.lab, "office", address, TCP_PORT) == "refused"
    assert visits.greeting(fleet.lab, fleet.lab.address("gw2"), TCP_PORT) == "echo-b"

    after = await told(
        fleet, "counted-tcp", lambda answer: answer["total"]["open"] == 0 and answer["total"]["limited"] > 0
    )
    assert held["total"]["connections"] == at(held, "gw1")["connections"] == 2
    assert [at(after, gateway)["connections"] for gateway in GATEWAYS] == [2, 1, 0]
    assert at(after, "gw1")["limited"] > 0
    assert at(after, "gw2")["bytes_in"] > len(b"ping\n")
    assert at(after, "gw2")["bytes_out"] > len(b"hello from echo-b\nping\n")
    assert after["total"]["requests"] is after["total"]["statuses"] is None


async def test_flows_and_datagrams_of_udp_are_counted_in_both_directions(fleet: Fleet) -> None:
    async with udp_echo(fleet):
        put(fleet, "counted-udp", kind="udp", port=UDP_PORT, targets=[{"agent": "site-a", "port": UDP_PORT}])
        for _ in range(3):
            assert visits.udp_echo(fleet.lab, fleet.lab.address("gw3"), UDP_PORT)

        after = await told(fleet, "counted-udp", lambda answer: answer["total"]["connections"] == 3)

    counted = at(after, "gw3")
    assert (counted["packets_in"], counted["packets_out"]) == (3, 3)
    assert counted["bytes_in"] == counted["bytes_out"] == 3 * (20 + 8 + len(b"are you there"))


async def test_a_gateway_that_hangs_is_named_and_the_others_are_told(fleet: Fleet) -> None:
    await fleet.units.kill("gw3", "SIGSTOP")
    try:
        await eventually(lambda: get(fleet, "/services/web-a/counters?timeout=5")["silent"] == ["gw3"], within_s=40)
        everything = get(fleet, "/counters?timeout=5")
    finally:
        await fleet.units.kill("gw3", "SIGCONT")

    assert "gw3" in everything["silent"]
    assert {item["name"] for item in everything["items"]} >= {"web-a", "web-b", "web-c", "echo-b"}
    await told(fleet, "web-a", lambda answer: len(answer["gateways"]) == len(GATEWAYS))


@asynccontextmanager
async def udp_echo(fleet: Fleet) -> AsyncIterator[None]:
    argv = (sys.executable, "-m", "kakuremichi.lab.targets", "--site", "udp", "--udp", f"127.0.0.1:{UDP_PORT}")
    log = str(fleet.directory / "counted-udp.log")
    await fleet.units.start(Unit(name="counted-udp", argv=argv, namespace=fleet.lab.namespace("site-a"), log=log))
    try:
        await eventually(partial(visits.udp_echo, fleet.lab, "127.0.0.1", UDP_PORT, source="site-a", timeout=0.5))
        yield
    finally:
        await fleet.units.stop("counted-udp")
