"""The main job: a visitor reaches private services behind NAT through any gateway, and nobody else reaches anything."""

import ipaddress
import json
import sys
from collections.abc import Callable

import pytest

from kakuremichi.dataplane.nftables.gateway import TCP_DOOR
from kakuremichi.fleet.api import ApiError
from kakuremichi.fleet.lab_fleet import AGENTS, GATEWAYS, PORTAL_PORT, SERVICES, Fleet
from kakuremichi.fleet.visitor import fetch_all
from kakuremichi.lab.units import Unit
from support import truth, visits
from support.fleet import come_back, drop, eventually, forget, get, put

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]  # whoever comes first starts the fleet

HTTP = tuple(service for service in SERVICES if not service.public_port)


def node(fleet: Fleet, name: str) -> dict[str, object]:
    found: dict[str, object] = get(fleet, f"/{'gateways' if name.startswith('gw') else 'agents'}/{name}")
    return found


def tunnel_address(fleet: Fleet, agent: str) -> str:
    return str(ipaddress.ip_network(str(node(fleet, agent)["subnet"]))[100])


def listening(fleet: Fleet, host: str) -> set[int]:
    lines = fleet.lab.run(host, ["ss", "-Hltn"], check=True).stdout.splitlines()
    return {int(line.split()[3].rpartition(":")[2]) for line in lines}


def program(fleet: Fleet, name: str, host: str, *arguments: str) -> Unit:
    """A private service of a test; the fleet's keeper runs it."""
    argv = (sys.executable, "-m", "kakuremichi.lab.targets", "--site", name, *arguments)
    return Unit(name=name, argv=argv, namespace=fleet.lab.namespace(host), log=str(fleet.directory / f"{name}.log"))


async def serving(fleet: Fleet, unit: Unit, is_there: Callable[[], bool]) -> None:
    await fleet.units.start(unit)
    await eventually(is_there)


async def test_every_service_is_reached_through_every_gateway(fleet: Fleet) -> None:
    fetches = fetch_all(fleet.lab, SERVICES)

    assert len(fetches) == len(SERVICES) * len(GATEWAYS)
    assert [fetch for fetch in fetches if not fetch.ok] == []
    assert max(fetch.ms for fetch in fetches) < 1000


async def test_every_http_service_is_reached_by_https_with_the_certificate_of_the_lab(fleet: Fleet) -> None:
    trusted = fleet.directory / "certificates" / "lab.pem"
    for gateway in GATEWAYS:
        for service in HTTP:
            answer = visits.http_get(fleet.lab, gateway, service.host_name, "/secret?x=1", trusted=trusted)
            assert (answer.status, answer.json["site"], answer.json["query"]) == (200, service.name, "x=1")


async def test_a_name_resolves_to_the_gateways_and_curl_works_as_the_demo_says(fleet: Fleet) -> None:
    done = fleet.lab.run("visitor", ["curl", "-s", "--max-time", "5", "http://web-a.lab.test/hello"])
    assert json.loads(done.stdout)["site"] == "web-a"


async def test_the_allocator_avoids_a_sites_own_network(fleet: Fleet) -> None:
    own = [ipaddress.ip_network(text) for text in ("10.1.0.0/24", "192.168.10.0/24", "192.168.2.0/24")]
    subnets = [ipaddress.ip_network(str(node(fleet, agent)["subnet"])) for agent in AGENTS]

    assert all(subnet.prefixlen == 24 for subnet in subnets)
    assert not any(subnet.overlaps(other) for subnet in subnets for other in own)
    assert len(set(subnets)) == len(subnets)


async def test_a_machine_with_another_default_route_answers(fleet: Fleet) -> None:
    peer = visits.http_get(fleet.lab, "gw2", "web-b.lab.test").json["peer"]

    assert peer == fleet.lab.address("site-b")  # the agent's own address at the site, so app-b answers to it


async def test_agents_reach_neither_each_other_nor_the_gateways_ports_through_the_tunnel(fleet: Fleet) -> None:
    lab = fleet.lab
    own = tunnel_address(fleet, "site-a").rpartition(".")[0]
    others = [tunnel_address(fleet, agent) for agent in AGENTS if agent != "site-a"]
    open_at_b = get(fleet, "/services/echo-b")["targets"][0]["agent_port"]
    for other in others:
        lab.run("site-a", ["ip", "route", "add", f"{other}/32", "dev", lab.namespace("site-a")], check=True)
    try:
        for address, port in [(f"{own}.{slot}", port) for slot in (1, 2, 3) for port in (80, 443, 51820)]:
            assert visits.outcome(lab, "site-a", address, port, 0.3) != "open", (address, port)
        for other in others:
            assert visits.outcome(lab, "site-a", other, open_at_b, 0.3) != "open", other
        assert lab.run("site-a", ["ping", "-c1", "-W2", f"{own}.1"]).returncode == 0  # the tunnel itself is alive
    finally:
        for other in others:
            lab.run("site-a", ["ip", "route", "del", f"{other}/32"], check=True)


async def test_a_stranger_reaches_no_site_directly(fleet: Fleet) -> None:
    lab = fleet.lab
    for router in ("nat-a", "nat-b", "nat-c"):
        for port in (80, 7007, 8080, 51820):
            assert visits.outcome(lab, "stranger", lab.address(router), port, 0.3) != "open", (router, port)
    for agent in AGENTS:
        assert visits.outcome(lab, "stranger", lab.address(agent), 8080, 0.3) != "open", agent
        assert visits.outcome(lab, "stranger", tunnel_address(fleet, agent), 8080, 0.3) != "open", agent
    for gateway in GATEWAYS:  # and may not use a gateway as a router into the tunnels
        for agent in AGENTS:
            address = tunnel_address(fleet, agent)
            lab.run("stranger", ["ip", "route", "replace", f"{address}/32", "via", lab.address("backbone")])
            lab.run("backbone", ["ip", "route", "replace", f"{address}/32", "via", lab.address(gateway)], check=True)
            try:
                for target in truth.wanted(fleet)[agent].doors:
                    assert visits.outcome(lab, "stranger", address, int(target[1]), 0.3) != "open", (gateway, agent)
            finally:
                lab.run("backbone", ["ip", "route", "del", f"{address}/32"], check=True)
                lab.run("stranger", ["ip", "route", "del", f"{address}/32"])


async def test_tcp_services_are_carried_by_nftables_without_a_listening_socket(fleet: Fleet) -> None:
    url = f"https://{fleet.lab.address('control')}:{PORTAL_PORT}"
    command = [sys.executable, "-m", "kakuremichi.cli", "get", "services"]
    context = ["--url", url, "--token-file", str(fleet.control.token_file), "--ca-file", str(fleet.control.ca_file)]
    table = fleet.lab.run("control", [*command, *context], check=True).stdout

    lines = {line.split()[0]: line for line in table.splitlines() if line.strip()}
    assert "nftables (no listening socket)" in lines["echo-b"]
    assert all("haproxy" in lines[service.name] for service in HTTP)
    for gateway in GATEWAYS:
        assert listening(fleet, gateway) == {80, 443, TCP_DOOR}
        assert visits.greeting(fleet.lab, fleet.lab.address(gateway), 7000) == "echo-b"


async def test_an_unpublished_service_is_gone_on_all_gateways_with_exactly_its_own_parts(fleet: Fleet) -> None:
    before = await truth.fingerprint(fleet)
    put(fleet, "brief", kind="http", host="brief.lab.test")
    put(fleet, "brief-tcp", kind="tcp", port=7100, targets=[{"agent": "site-b", "port": 7007}])
    for gateway in GATEWAYS:
        assert visits.http_get(fleet.lab, gateway, "brief.lab.test").status == 200
        assert visits.greeting(fleet.lab, fleet.lab.address(gateway), 7100) == "echo-b"

    for name in ("brief", "brief-tcp"):
        answer = drop(fleet, f"/services/{name}")
        assert {each["node"] for each in answer["applied"]} >= set(GATEWAYS)

    for gateway in GATEWAYS:
        assert visits.http_get(fleet.lab, gateway, "brief.lab.test").status == 404
        assert visits.outcome(fleet.lab, "visitor", fleet.lab.address(gateway), 7100) == "refused"
    assert await truth.fingerprint(fleet) == before


async def test_a_service_is_replaced_whole(fleet: Fleet) -> None:
    put(fleet, "moving", kind="http", host="moving.lab.test")
    put(
        fleet,
        "moving",
        kind="http",
        host="moved.lab.test",
        targets=[{"agent": "site-c", "address": "10.1.0.50", "port": 8080}],
    )
    for gateway in GATEWAYS:
        assert visits.http_get(fleet.lab, gateway, "moving.lab.test").status == 404
        assert visits.http_get(fleet.lab, gateway, "moved.lab.test").json["site"] == "web-c"


async def test_an_allow_list_lets_the_office_in_and_no_byte_of_a_stranger(fleet: Fleet) -> None:
    lab = fleet.lab
    office = lab.address("office")
    put(fleet, "inner", kind="tcp", port=7200, sources=[f"{office}/32"], targets=[{"agent": "site-b", "port": 7007}])
    heard = packets_into_tunnels(fleet)

    for gateway in GATEWAYS:
        for source in ("stranger", "visitor"):
            assert visits.outcome(lab, source, lab.address(gateway), 7200, 0.5) == "silence"
    assert packets_into_tunnels(fleet) == heard

    for gateway in GATEWAYS:
        assert visits.greeting(lab, lab.address(gateway), 7200, source="office") == "echo-b"


def packets_into_tunnels(fleet: Fleet) -> int:
    """Packets of visitors that the gateways have put into their tunnels: what the site could ever have seen."""
    total = 0
    for gateway in GATEWAYS:
        text = fleet.lab.run(gateway, ["nft", "-j", "list", "set", "inet", "kakuremichi", "used"], check=True).stdout
        for entry in json.loads(text)["nftables"]:
            elements = entry.get("set", {}).get("elem", ())
            total += sum(element["elem"]["counter"]["packets"] for element in elements)
    return total


async def test_udp_services_and_port_ranges_are_reached(fleet: Fleet) -> None:
    lab = fleet.lab
    ports = range(7301, 7304)
    tcp = [word for port in ports for word in ("--tcp", f"0.0.0.0:{port}")]
    unit = program(fleet, "many", "site-a", *tcp, "--udp", "127.0.0.1:7310")
    await serving(fleet, unit, lambda: visits.outcome(lab, "site-a", "127.0.0.1", 7303) == "open")
    try:
        put(fleet, "dns", kind="udp", port=7300, targets=[{"agent": "site-a", "port": 7310}])
        put(fleet, "span", kind="tcp", port=7301, last_port=7303, targets=[{"agent": "site-a", "port": 7301}])
        for gateway in GATEWAYS:
            assert visits.udp_echo(lab, lab.address(gateway), 7300)
            assert visits.outcome(lab, "visitor", lab.address(gateway), 7300) == "refused"  # TCP is another service
            for port in ports:
                assert visits.greeting(lab, lab.address(gateway), port) == "many"
            assert visits.outcome(lab, "visitor", lab.address(gateway), 7304) == "refused"
            assert listening(fleet, gateway) == {80, 443, TCP_DOOR}
    finally:
        await fleet.units.stop("many")


async def test_a_removed_agent_takes_only_its_own_parts_along(fleet: Fleet) -> None:
    lab = fleet.lab
    put(fleet, "tcp-c", kind="tcp", port=7400, targets=[{"agent": "site-c", "address": "10.1.0.50", "port": 8080}])
    before = await truth.fingerprint(fleet, ("site-a", "site-b"))
    kept = {service.name: truth.wanted(fleet)["gw1"].hosts[service.host_name] for service in HTTP}

    with pytest.raises(ApiError) as refused:
        drop(fleet, "/agents/site-c")
    assert refused.value.status == 409
    assert sorted(refused.value.problem["holders"]) == ["tcp-c", "web-c"]
    assert visits.http_get(lab, "gw1", "web-c.lab.test").status == 200

    drop(fleet, "/agents/site-c?cascade=true")

    for gateway in GATEWAYS:
        assert visits.http_get(lab, gateway, "web-c.lab.test").status == 503
        assert visits.outcome(lab, "visitor", lab.address(gateway), 7400) == "refused"
        assert visits.http_get(lab, gateway, "web-a.lab.test").json["site"] == "web-a"
    assert {get(fleet, f"/services/{name}")["state"] for name in ("web-c", "tcp-c")} == {"no-target"}
    left = (await truth.real(fleet, ["gw1"]))["gw1"]
    assert all(left.hosts[f"{name}.lab.test"] == kept[name] for name in ("web-a", "web-b"))
    assert len(left.peers) == sum(":" not in route for route in left.routes) == 2  # one of IPv6 is for all
    assert await truth.fingerprint(fleet, ("site-a", "site-b")) == before

    await come_back(fleet, "site-c")
    put(fleet, "web-c", kind="http", host="web-c.lab.test",
        targets=[{"agent": "site-c", "address": "10.1.0.50", "port": 8080}])  # fmt: skip
    for gateway_name in GATEWAYS:
        assert visits.http_get(lab, gateway_name, "web-c.lab.test").json["site"] == "web-c"


async def test_a_removed_gateway_leaves_the_others_alone_and_a_new_one_serves_everything(fleet: Fleet) -> None:
    lab = fleet.lab
    before = await truth.fingerprint(fleet, ("gw1", "gw2"))

    drop(fleet, "/gateways/gw3")

    await truth.settled(fleet)
    assert await truth.fingerprint(fleet, ("gw1", "gw2")) == before
    assert all(len(node.peers) == 2 for node in (await truth.real(fleet, AGENTS)).values())
    for gateway in ("gw1", "gw2"):
        assert visits.http_get(lab, gateway, "web-a.lab.test").status == 200

    await come_back(fleet, "gw3")
    fetches = fetch_all(lab, SERVICES, ("gw3",))
    assert [fetch for fetch in fetches if not fetch.ok] == []
    assert max(fetch.ms for fetch in fetches) < 1000  # no visitor waits for a handshake that was sent too early


async def test_a_new_agent_at_run_time_serves_at_once(fleet: Fleet) -> None:
    lab = fleet.lab
    await fleet.start_agent("app-b")
    try:
        await fleet.all_live(["app-b"])
        put(fleet, "fresh", kind="http", host="fresh.lab.test",
            targets=[{"agent": "app-b", "address": "192.168.2.130", "port": 8080}])  # fmt: skip
        for gateway in GATEWAYS:
            answer = visits.http_get(lab, gateway, "fresh.lab.test")
            assert (answer.status, answer.json["site"]) == (200, "web-b")
        drop(fleet, "/services/fresh")
    finally:
        drop(fleet, "/agents/app-b?cascade=true")
        await forget(fleet, "app-b")
