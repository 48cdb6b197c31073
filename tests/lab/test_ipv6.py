"""Visitors by IPv6 reach every HTTP and TCP service, although the sites have IPv4 only."""

import pytest

from kakuremichi.fleet.lab_fleet import GATEWAYS, Fleet
from support import visits
from support.fleet import put

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_http_and_https_by_ipv6(fleet: Fleet, gateway: str) -> None:
    address = fleet.lab.address6(gateway)
    trusted = fleet.directory / "certificates" / "lab.pem"
    for plain in (None, trusted):
        answer = visits.http_get(fleet.lab, gateway, "web-a.lab.test", trusted=plain, address=address)
        assert (answer.status, answer.json["site"]) == (200, "web-a")


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_tcp_by_ipv6(fleet: Fleet, gateway: str) -> None:
    assert visits.greeting(fleet.lab, fleet.lab.address6(gateway), 7000) == "echo-b"
    assert visits.greeting(fleet.lab, fleet.lab.address(gateway), 7000) == "echo-b"


async def test_the_allow_list_holds_for_ipv6_and_the_inner_door_is_shut(fleet: Fleet) -> None:
    visitor = fleet.lab.address6("visitor")
    put(
        fleet, "guarded", kind="tcp", port=7100, sources=[f"{visitor}/128"], targets=[{"agent": "site-b", "port": 7007}]
    )
    address = fleet.lab.address6("gw1")
    assert visits.greeting(fleet.lab, address, 7100) == "echo-b"
    assert visits.outcome(fleet.lab, "stranger", address, 7100) == "silence"
    assert visits.outcome(fleet.lab, "visitor", fleet.lab.address("gw1"), 7100) == "silence"
    for door in (address, fleet.lab.address("gw1")):
        assert visits.outcome(fleet.lab, "visitor", door, 15080) == "silence", door
