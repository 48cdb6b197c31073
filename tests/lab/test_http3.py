"""A gateway that is asked for HTTP/3: its door, if its HAProxy has QUIC, and otherwise a sentence that says so."""

import pytest

from kakuremichi.dataplane.haproxy.visitors import HTTP3_PORT
from kakuremichi.fleet.lab_fleet import Fleet
from support import visits
from support.fleet import drop, eventually, forget, get
from support.haproxy import installed
from support.quic import VERSION_1, versions_offered

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(120)]


def offered(fleet: Fleet, gateway: str) -> bool:
    """Whether a visitor hears QUIC there."""
    with fleet.lab.in_namespace("visitor"):
        return VERSION_1 in versions_offered(fleet.lab.address(gateway), HTTP3_PORT, timeout_s=1.0)


async def test_http3_is_served_where_it_is_asked_for_and_can_be(fleet: Fleet) -> None:
    await fleet.start_gateway("gw4", env={"KAKUREMICHI_HTTP3": "true"})
    await fleet.all_live(["gw4"])
    try:
        if installed().quic:
            await eventually(lambda: offered(fleet, "gw4"))
        else:
            await eventually(lambda: "has no QUIC" in str(get(fleet, "/gateways/gw4")["warnings"]))
            assert not offered(fleet, "gw4")
        assert not offered(fleet, "gw1")  # nobody asked it
        assert visits.http_get(fleet.lab, "gw4", "web-a.lab.test").status == 200
    finally:
        drop(fleet, "/gateways/gw4")
        await forget(fleet, "gw4")
