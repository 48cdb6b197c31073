"""Firewalls of other programs on a gateway and at a site: what they drop is told with the rule that mends it."""

import json
import re
import shlex
from collections.abc import AsyncIterator

import pytest

from kakuremichi.fleet.certificates import make_certificate
from kakuremichi.fleet.lab_fleet import SERVICES, Fleet
from kakuremichi.fleet.nodes import agent_unit, gateway_unit
from kakuremichi.fleet.visitor import fetch
from kakuremichi.lab import namespaces
from kakuremichi.lab.plan import foreign_rules
from kakuremichi.lab.units import Unit
from support.fleet import eventually, get, put
from support.visits import outcome

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]  # whoever comes first starts the fleet

TABLES = re.compile(r"^table (ip6?) (\w+)", re.MULTILINE)
MANAGED = {"KAKUREMICHI_MANAGE_FIREWALL": "1"}
WITHIN_S = 30.0
SERVICE = {service.name: service for service in SERVICES}


def flushed(host: str) -> str:
    """Statements that take all of the host's foreign tables away."""
    return "".join(f"add table {table}\ndelete table {table}\n" for table in map(" ".join, _tables(host)))


def _tables(host: str) -> list[tuple[str, str]]:
    return TABLES.findall(foreign_rules(host))


def load(fleet: Fleet, host: str) -> None:
    """As these programs reload: all away and all back, in one transaction."""
    namespaces.nft(fleet.lab.namespace(host), flushed(host) + foreign_rules(host))


def node_unit(fleet: Fleet, name: str) -> Unit:
    host = fleet.node_host(name)
    if name.startswith("site"):
        return agent_unit(host, "")
    return gateway_unit(
        host, "", (f"{fleet.lab.address(name)}:51820",), make_certificate(fleet.directory / "certificates")
    )


async def manage(fleet: Fleet, name: str, *, on: bool) -> None:
    unit = node_unit(fleet, name)
    env = {key: value for key, value in unit.env.items() if key not in MANAGED} | (MANAGED if on else {})
    await fleet.units.start(Unit(name=unit.name, argv=unit.argv, namespace=unit.namespace, env=env, log=unit.log))


@pytest.fixture
async def fleet(fleet: Fleet) -> AsyncIterator[Fleet]:
    """The shared one, with nobody else's firewall and without management, before and after."""
    yield fleet
    for name in ("gw3", "site-b"):
        namespaces.nft(fleet.lab.namespace(name), flushed(name))
        await manage(fleet, name, on=False)
    await eventually(lambda: not any(blocked(fleet, service.name) for service in SERVICES), WITHIN_S)


def blocked(fleet: Fleet, service: str, node: str = "") -> list[str]:
    """What of a service is blocked on this node (any), as the API tells it: `CHAIN: COMMAND` each."""
    errors = get(fleet, f"/services/{service}")["errors"]
    found = [error["message"] for error in errors if node in ("", error["node"])]
    return [part.removeprefix("blocked-by ") for text in found if "blocked-by" in text for part in text.split("; ")]


def answered(fleet: Fleet, service: str, gateway: str) -> bool:
    return fetch(fleet.lab, SERVICE[service], gateway).ok


def commands(found: list[str]) -> set[str]:
    return {text.partition(": ")[2] for text in found}


async def test_a_gateway_tells_what_a_firewall_drops_until_the_rule_it_names_is_there(fleet: Fleet) -> None:
    load(fleet, "gw3")

    await eventually(lambda: bool(blocked(fleet, "echo-b", "gw3") and blocked(fleet, "web-a", "gw3")), WITHIN_S)

    forward = "nft insert rule ip filter ufw-before-forward ct mark and 0xff800000 == 0x6b000000 accept"
    door = "nft insert rule ip filter ufw-before-input tcp dport 80 accept"
    assert f"ip filter FORWARD: {forward}" in blocked(fleet, "echo-b", "gw3")
    assert f"ip filter INPUT: {door}" in blocked(fleet, "web-a", "gw3")
    assert not blocked(fleet, "echo-b", "gw1")
    assert outcome(fleet.lab, "visitor", fleet.lab.address("gw3"), 7000) == "silence"
    assert answered(fleet, "echo-b", "gw1")

    for command in commands(blocked(fleet, "echo-b", "gw3")) | commands(blocked(fleet, "web-a", "gw3")):
        fleet.lab.run("gw3", shlex.split(command), check=True)

    await eventually(lambda: not blocked(fleet, "echo-b") and not blocked(fleet, "web-a"), WITHIN_S)
    assert answered(fleet, "echo-b", "gw3")
    assert answered(fleet, "web-a", "gw3")


async def test_a_site_tells_of_the_target_behind_it_and_not_of_the_one_on_it(fleet: Fleet) -> None:
    load(fleet, "site-b")

    await eventually(lambda: bool(blocked(fleet, "web-b", "site-b")), WITHIN_S)

    (found,) = blocked(fleet, "web-b", "site-b")
    assert found == (
        "ip filter FORWARD: nft insert rule ip filter DOCKER-USER ct mark and 0xff800000 == 0x6b800000 accept"
    )
    assert not blocked(fleet, "echo-b")
    assert not answered(fleet, "web-b", "gw1")
    assert answered(fleet, "echo-b", "gw1")

    for command in commands([found]):
        fleet.lab.run("site-b", shlex.split(command), check=True)

    await eventually(lambda: not blocked(fleet, "web-b"), WITHIN_S)
    assert answered(fleet, "web-b", "gw1")


async def test_a_service_that_comes_later_is_not_called_applied_where_it_is_blocked(fleet: Fleet) -> None:
    load(fleet, "gw3")
    await eventually(lambda: bool(blocked(fleet, "echo-b", "gw3")), WITHIN_S)

    with fleet.api() as api:
        _, answer = api.call(
            "PUT", "/services/later?wait=applied&timeout=3",
            {"kind": "tcp", "port": 12345, "targets": [{"agent": "site-a", "port": 8080}]},
        )  # fmt: skip

    assert answer["pending"] == ["gw3"]
    assert "blocked-by ip filter FORWARD" in answer["errors"][0]["message"]


async def test_a_managed_firewall_lets_services_pass_and_again_after_each_reload(fleet: Fleet) -> None:
    for name in ("gw3", "site-b"):
        load(fleet, name)
        await manage(fleet, name, on=True)

    for _ in range(2):
        await eventually(lambda: answered(fleet, "echo-b", "gw3") and answered(fleet, "web-b", "gw3"), WITHIN_S)
        await eventually(lambda: not any(blocked(fleet, service.name) for service in SERVICES), WITHIN_S)
        put(fleet, "another", kind="tcp", port=12346)  # applied everywhere
        for name in ("gw3", "site-b"):
            load(fleet, name)

    await eventually(lambda: answered(fleet, "echo-b", "gw3") and answered(fleet, "web-b", "gw3"), WITHIN_S)
    for name in ("gw3", "site-b"):
        listing = fleet.lab.run(name, ["nft", "-j", "list", "ruleset"], check=True).stdout
        rules = [entry["rule"] for entry in json.loads(listing)["nftables"] if "rule" in entry]
        ours = [
            (rule["family"], rule["chain"], rule["comment"])
            for rule in rules
            if rule["table"] == "filter" and rule.get("comment", "").startswith("kakuremichi ")
        ]
        assert ours
        assert len(ours) == len(set(ours))
