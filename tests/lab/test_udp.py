"""UDP through real gateways, tunnels and agents: single ports, ranges, allow-lists, limits, and targets by name."""

import sys
from collections.abc import AsyncIterator
from functools import partial

import pytest

from kakuremichi.fleet.lab_fleet import GATEWAYS, Fleet
from kakuremichi.lab.units import Unit
from support import visits
from support.fleet import drop, eventually, get, put

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]  # whoever comes first starts the fleet

FIRST, LAST = 7501, 7503
LIMITED = 30


@pytest.fixture(autouse=True)
async def echoes(fleet: Fleet) -> AsyncIterator[None]:
    """UDP echo on the loopback of site-a."""
    ports = (7500, *range(FIRST, LAST + 1))
    listeners = [word for port in ports for word in ("--udp", f"127.0.0.1:{port}")]
    argv = (sys.executable, "-m", "kakuremichi.lab.targets", "--site", "udp", *listeners)
    log = str(fleet.directory / "udp-echo.log")
    await fleet.units.start(Unit(name="udp-echo", argv=argv, namespace=fleet.lab.namespace("site-a"), log=log))
    await eventually(partial(visits.udp_echo, fleet.lab, "127.0.0.1", LAST, source="site-a", timeout=0.5))
    yield
    await fleet.units.stop("udp-echo")


def echoed(fleet: Fleet, gateway: str, port: int, **more: float | str) -> bool:
    return visits.udp_echo(fleet.lab, fleet.lab.address(gateway), port, **more)  # type: ignore[arg-type]


async def test_a_range_is_reached_port_by_port_through_every_gateway_and_its_neighbours_are_not(fleet: Fleet) -> None:
    put(fleet, "span", kind="udp", port=FIRST, last_port=LAST, targets=[{"agent": "site-a", "port": FIRST}])

    for gateway in GATEWAYS:
        assert all(echoed(fleet, gateway, port) for port in range(FIRST, LAST + 1))
        assert not echoed(fleet, gateway, FIRST - 1, timeout=0.5)
    drop(fleet, "/services/span")
    assert not any(echoed(fleet, gateway, FIRST, timeout=0.5) for gateway in GATEWAYS)


async def test_only_who_is_on_the_list_gets_an_answer(fleet: Fleet) -> None:
    office = f"{fleet.lab.address('office')}/32"
    put(fleet, "dns", kind="udp", port=7500, sources=[office], targets=[{"agent": "site-a", "port": 7500}])

    assert echoed(fleet, "gw1", 7500, source="office")
    assert not echoed(fleet, "gw1", 7500, source="stranger", timeout=0.5)


async def test_a_rate_drops_what_comes_too_fast_and_goes_with_the_option(fleet: Fleet) -> None:
    target = [{"agent": "site-a", "port": 7500}]
    put(fleet, "dns", kind="udp", port=7500, targets=target, options={"limits": {"rate": 1}})

    few = sum(echoed(fleet, "gw1", 7500, timeout=0.02) for _ in range(LIMITED))
    put(fleet, "dns", kind="udp", port=7500, targets=target)
    everyone = sum(echoed(fleet, "gw1", 7500) for _ in range(LIMITED))

    assert few < everyone == LIMITED


async def test_a_target_by_name_is_resolved_at_its_site(fleet: Fleet) -> None:
    put(fleet, "named", kind="udp", port=7500, targets=[{"agent": "site-a", "address": "localhost", "port": 7500}])

    await eventually(lambda: not get(fleet, "/agents/site-a")["errors"])
    assert all(echoed(fleet, gateway, 7500) for gateway in GATEWAYS)


async def test_a_name_nobody_knows_is_told_and_takes_nothing_else_along(fleet: Fleet) -> None:
    put_unresolved = {"kind": "udp", "port": 7500, "targets": [{"agent": "site-a", "address": "no.lan", "port": 7500}]}
    with fleet.api() as api:
        api.call("PUT", "/services/named", put_unresolved)

    await eventually(lambda: "no.lan" in str(get(fleet, "/agents/site-a")["errors"]))
    assert visits.http_get(fleet.lab, "gw1", "web-a.lab.test").status == 200
