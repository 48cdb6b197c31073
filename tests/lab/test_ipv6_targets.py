"""Targets that have IPv6: on the agent's own ::1 and on another machine of its site, for visitors of both families."""

import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import partial

import pytest

from kakuremichi.fleet.api import ApiError
from kakuremichi.fleet.lab_fleet import AGENTS, GATEWAYS, Fleet
from kakuremichi.lab import names
from kakuremichi.lab.units import Unit
from support import visits
from support.fleet import drop, eventually, get, put

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]  # whoever comes first starts the fleet

SILENT_S = 0.5
SITE_B, APP_B = "fd00:b::122", "fd00:b::130"


@pytest.fixture
async def on_loopback(fleet: Fleet) -> AsyncIterator[None]:
    """HTTP at port 7600 of site-a's ::1, TCP from 7601 to 7603, UDP at 7601."""
    await _serve(fleet, "six-a", "site-a", "[::1]")
    yield
    await fleet.units.stop("six-a")


@pytest.fixture
def own_network(fleet: Fleet) -> Iterator[None]:
    """IPv6 between site-b and app-b, and nowhere else."""
    for host, address in (("site-b", SITE_B), ("app-b", APP_B)):
        fleet.lab.run(host, ["ip", "addr", "add", f"{address}/64", "dev", "eth0", "nodad"])
    yield
    for host, address in (("site-b", SITE_B), ("app-b", APP_B)):
        fleet.lab.run(host, ["ip", "addr", "del", f"{address}/64", "dev", "eth0"])


@pytest.fixture
async def on_the_lan(fleet: Fleet, own_network: None) -> AsyncIterator[None]:
    """The same on app-b. The agent beside it reads at its start which networks its host has."""
    await _serve(fleet, "six-b", "app-b", f"[{APP_B}]")
    await fleet.units.restart("site-b")
    await fleet.all_live(AGENTS)
    yield
    await fleet.units.stop("six-b")
    await fleet.units.restart("site-b")
    await fleet.all_live(AGENTS)


async def _serve(fleet: Fleet, name: str, host: str, at: str) -> None:
    places = [("--http", 7600), ("--udp", 7601), *(("--tcp", port) for port in (7601, 7602, 7603))]
    listeners = [word for flag, port in places for word in (flag, f"{at}:{port}")]
    argv = (sys.executable, "-m", "kakuremichi.lab.targets", "--site", name, *listeners)
    log = str(fleet.directory / f"{name}.log")
    await fleet.units.start(Unit(name=name, argv=argv, namespace=fleet.lab.namespace(host), log=log))
    await eventually(lambda: _answers(fleet, host, at.strip("[]")))


def _answers(fleet: Fleet, host: str, address: str) -> bool:
    with suppress(OSError):
        return bool(visits.greeting(fleet.lab, address, 7603, source=host))
    return False


def target(port: int, address: str = "::1", agent: str = "site-a") -> list[dict[str, object]]:
    return [{"agent": agent, "address": address, "port": port}]


def doors(fleet: Fleet, gateway: str) -> tuple[str, str]:
    return fleet.lab.address(gateway), fleet.lab.address6(gateway)


@pytest.mark.usefixtures("on_loopback")
async def test_http_and_tcp_on_the_agents_own_loopback_have_visitors_of_both_families(fleet: Fleet) -> None:
    put(fleet, "six-web", kind="http", host="six-web.lab.test", targets=target(7600))
    put(fleet, "six-tcp", kind="tcp", port=7610, targets=target(7601))

    for gateway in GATEWAYS:
        for address in doors(fleet, gateway):
            answer = visits.http_get(fleet.lab, gateway, "six-web.lab.test", address=address)
            assert (answer.status, answer.json["site"]) == (200, "six-a")
            assert visits.greeting(fleet.lab, address, 7610) == "six-a"
    assert get(fleet, "/services/six-tcp")["errors"] == []


@pytest.mark.usefixtures("on_loopback")
async def test_udp_and_ranges_have_visitors_by_ipv6_only_and_the_plan_says_so(fleet: Fleet) -> None:
    four, six = doors(fleet, "gw2")
    body = {"kind": "udp", "port": 7611, "targets": target(7601)}
    with fleet.api() as api:
        plan = api.call("PUT", "/services/six-udp?dry_run=1", body)[1]
    assert "the target has IPv6 only, so visitors by IPv4 cannot reach it" in str(plan)
    put(fleet, "six-udp", **body)
    put(fleet, "six-range", kind="tcp", port=7602, last_port=7603, targets=target(7602))

    assert visits.udp_echo(fleet.lab, six, 7611)
    assert not visits.udp_echo(fleet.lab, four, 7611, timeout=SILENT_S)
    assert visits.greeting(fleet.lab, six, 7603) == "six-a"
    assert visits.outcome(fleet.lab, "visitor", four, 7603) != "open"


@pytest.mark.usefixtures("on_loopback")
async def test_the_allow_list_and_the_end_of_a_service_hold_by_ipv6(fleet: Fleet) -> None:
    office = f"{fleet.lab.address6('office')}/128"
    put(fleet, "six-list", kind="tcp", port=7612, sources=[office], targets=target(7601))
    six = fleet.lab.address6("gw1")

    assert visits.greeting(fleet.lab, six, 7612, source="office") == "six-a"
    assert visits.outcome(fleet.lab, "stranger", six, 7612) == "silence"
    with visits.connect(fleet.lab, "office", six, 7612) as connection:
        assert connection.recv(100)
        drop(fleet, "/services/six-list")
        connection.settimeout(SILENT_S)
        connection.sendall(b"anybody?\n")
        with pytest.raises((TimeoutError, ConnectionResetError)):
            connection.recv(100)


@pytest.mark.usefixtures("on_loopback")
async def test_a_name_is_resolved_to_ipv6_on_demand_and_moves_between_the_families(fleet: Fleet) -> None:
    # Nobody is at the name's IPv4 address.
    names.append(fleet.lab.namespace("site-a"), ["127.0.0.2 six.lan", "::1 six.lan"])
    ipv6 = {"upstream": {"ipv6": True}}
    publish(fleet, "six-name", kind="tcp", port=7613, targets=target(7601, "six.lan"), options=ipv6)
    await eventually(partial(_greets, fleet, 7613, "six-a"))

    put(fleet, "six-name", kind="tcp", port=7613, targets=target(7007, "127.0.0.1", "site-b"))
    await eventually(partial(_greets, fleet, 7613, "echo-b"))
    publish(fleet, "six-name", kind="tcp", port=7613, targets=target(7601, "gw1-6.lab.test"))
    await eventually(lambda: "has IPv6 only; it is taken with the option upstream.ipv6" in errors(fleet, "six-name"))


def _greets(fleet: Fleet, port: int, name: str) -> bool:
    with suppress(OSError):
        return [visits.greeting(fleet.lab, door, port) for door in doors(fleet, "gw1")] == [name, name]
    return False


@pytest.mark.usefixtures("on_the_lan")
async def test_another_machine_of_the_site_is_reached_by_its_ipv6_address(fleet: Fleet) -> None:
    put(fleet, "lan-tcp", kind="tcp", port=7614, targets=target(7601, APP_B, "site-b"))
    put(fleet, "lan-udp", kind="udp", port=7615, targets=target(7601, APP_B, "site-b"))
    put(fleet, "lan-web", kind="http", host="lan-web.lab.test", targets=target(7600, APP_B, "site-b"))

    for gateway in GATEWAYS:
        four, six = doors(fleet, gateway)
        assert [visits.greeting(fleet.lab, door, 7614) for door in (four, six)] == ["six-b", "six-b"]
        assert visits.udp_echo(fleet.lab, six, 7615)
        answer = visits.http_get(fleet.lab, gateway, "lan-web.lab.test", address=four)
        assert (answer.status, answer.json["peer"]) == (200, SITE_B)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [("fe80::1", "link-local"), ("::ffff:127.0.0.1", "write it as IPv4"), ("fd00:ec2::254", "metadata")],
)
async def test_what_no_service_can_have_is_refused_with_a_sentence(fleet: Fleet, address: str, sentence: str) -> None:
    body = {"kind": "tcp", "port": 7616, "targets": target(1, address)}
    with fleet.api() as api, pytest.raises(ApiError, match=sentence):
        api.call("PUT", "/services/six-bad", body)


async def test_what_the_site_does_not_permit_is_the_services_error(fleet: Fleet) -> None:
    publish(fleet, "six-closed", kind="tcp", port=7617, targets=target(7601, "fd00:c::1"))

    await eventually(lambda: "allow file does not permit fd00:c::1" in errors(fleet, "six-closed"))


async def test_a_target_inside_the_tunnel_would_lead_back_to_itself(fleet: Fleet) -> None:
    (address,) = (route["dst"] for route in _routes6(fleet, "gw1"))
    publish(fleet, "six-loop", kind="tcp", port=7618, targets=target(7601, address.partition("/")[0] + "a00:64"))

    await eventually(lambda: "is inside the tunnel" in errors(fleet, "six-loop"))


def _routes6(fleet: Fleet, gateway: str) -> list[dict[str, str]]:
    argv = ["ip", "-j", "-6", "route", "show", "proto", "107"]
    found: list[dict[str, str]] = json.loads(fleet.lab.run(gateway, argv, check=True).stdout)
    return found


def publish(fleet: Fleet, name: str, **body: object) -> None:
    """Without waiting: of what is refused at the site nobody says that it is applied."""
    with fleet.api() as api:
        api.call("PUT", f"/services/{name}", body)


def errors(fleet: Fleet, name: str) -> str:
    return str(get(fleet, f"/services/{name}")["errors"])
