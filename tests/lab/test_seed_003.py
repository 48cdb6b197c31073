"""The third seed: three gateways, three agents, each agent in a network of its own, visitors sent round by DNS.

Whichever gateway a visitor meets, it reaches every agent; gateways come and go; no agent reaches another.
"""

import json
import socket
from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Network, ip_network
from itertools import permutations

import pytest

from kakuremichi.dataplane.wireguard.diff import PeerState, SetPeer
from kakuremichi.dataplane.wireguard.userspace import UserspaceDevice
from kakuremichi.fleet.lab_fleet import AGENTS, GATEWAYS, SERVICES, Fleet
from kakuremichi.fleet.visitor import fetch_all
from kakuremichi.model.keys import key_text
from support import truth, visits
from support.fleet import come_back, drop, eventually, forget, get
from support.loads import http_download, pattern_sha256
from support.seed_rotation import Rotation, crowd
from support.seed_watch import watching

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]  # whoever comes first starts the fleet

WIREGUARD_PORT = 51820
DOWNLOAD = 256 << 20  # at a megabyte a second it lasts as long as any test here

CHEAT_PORT, CHEAT_PING = 6666, 777  # the port it comes from and what its ping carries: nobody else's look like that
ATTEMPT = {"connection": f"tcp sport {CHEAT_PORT}", "ping": f"icmp type echo-request meta length {CHEAT_PING + 28}"}


def subnet_of(fleet: Fleet, agent: str) -> IPv4Network:
    return IPv4Network(get(fleet, f"/agents/{agent}")["subnet"])


def in_tunnel(fleet: Fleet, agent: str) -> str:
    """The agent's own address."""
    return str(subnet_of(fleet, agent)[100])


def slot_of(fleet: Fleet, gateway: str) -> int:
    slot: int = get(fleet, f"/gateways/{gateway}")["slot"]
    return slot


async def peers_of(fleet: Fleet, name: str) -> dict[str, PeerState]:
    """The WireGuard peers of a node, as its engine has them, by the names of the nodes."""
    state = await UserspaceDevice(fleet.node_host(name).interface).read()
    known = {node["public_key"]: node["name"] for kind in ("gateways", "agents") for node in items(fleet, kind)}
    return {known[key_text(key)]: peer for key, peer in state.peers.items()}


def items(fleet: Fleet, kind: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = get(fleet, f"/{kind}")["items"]
    return found


def allowed4(state: PeerState) -> set[str]:
    return {str(network) for network in state.peer.allowed_ips if network.version == 4}


def own_addresses(fleet: Fleet, name: str) -> set[str]:
    """IPv4 addresses of the node's tunnel interface."""
    argv = ["ip", "-j", "-4", "addr", "show", "dev", fleet.node_host(name).interface]
    (link,) = json.loads(fleet.lab.run(name, argv, check=True).stdout)
    return {address["local"] for address in link["addr_info"]}


async def test_each_agent_has_a_network_of_its_own_with_every_gateway_in_it(fleet: Fleet) -> None:
    subnets = {agent: subnet_of(fleet, agent) for agent in AGENTS}
    slots = {gateway: slot_of(fleet, gateway) for gateway in GATEWAYS}

    assert all(subnet.prefixlen == 24 and subnet.subnet_of(IPv4Network("10.0.0.0/8")) for subnet in subnets.values())
    assert not any(one.overlaps(other) for one, other in permutations(subnets.values(), 2))
    assert len(set(slots.values())) == len(GATEWAYS)
    assert all(1 <= slot <= 99 for slot in slots.values())
    for agent, subnet in subnets.items():
        assert own_addresses(fleet, agent) == {str(subnet[100])}
        peers = await peers_of(fleet, agent)
        assert {name: allowed4(peer) for name, peer in peers.items()} == {
            gateway: {f"{subnet[slot]}/32"} for gateway, slot in slots.items()
        }
        for gateway, state in peers.items():
            assert str(state.peer.endpoint) == f"{fleet.lab.address(gateway)}:{WIREGUARD_PORT}"
            assert state.peer.keepalive_s == 25


async def test_each_gateway_has_one_peer_and_one_route_per_agent(fleet: Fleet) -> None:
    subnets = {agent: subnet_of(fleet, agent) for agent in AGENTS}
    for gateway in GATEWAYS:
        peers = await peers_of(fleet, gateway)
        assert {name: allowed4(peer) for name, peer in peers.items()} == {
            agent: {f"{subnet[100]}/32"} for agent, subnet in subnets.items()
        }
        interface = fleet.node_host(gateway).interface
        for subnet in subnets.values():
            argv = ["ip", "-j", "route", "get", str(subnet[100])]
            (route,) = json.loads(fleet.lab.run(gateway, argv, check=True).stdout)
            assert route["dev"] == interface


@pytest.mark.parametrize("service", ["web-a", "web-c"])
async def test_a_name_with_three_addresses_sends_visitors_round_and_each_gateway_serves(
    fleet: Fleet, service: str
) -> None:
    lab, subnet = fleet.lab, subnet_of(fleet, service.replace("web", "site"))
    host, trusted = f"{service}.lab.test", fleet.directory / "certificates" / "lab.pem"
    listed = lab.run("visitor", ["getent", "ahostsv4", host], check=True).stdout
    addresses = list(dict.fromkeys(line.split()[0] for line in listed.splitlines()))
    gateways = {lab.address(gateway): gateway for gateway in GATEWAYS}
    assert set(addresses) == set(gateways)

    seen = Counter[str]()
    for turn in range(4 * len(addresses)):
        gateway = gateways[addresses[turn % len(addresses)]]
        answer = visits.http_get(lab, gateway, host, trusted=trusted)  # TLS ends at the gateway
        assert (answer.status, answer.json["site"]) == (200, service)
        seen[answer.json["peer"]] += 1

    # The private service sees each gateway under that gateway's own address in the agent's network.
    assert seen == {str(subnet[slot_of(fleet, gateway)]): 4 for gateway in GATEWAYS}


@pytest.mark.timeout(180)
async def test_a_gateway_joins_and_another_leaves_while_visitors_come_and_none_fails(fleet: Fleet) -> None:
    lab = fleet.lab

    def visit(gateway: str) -> None:
        assert visits.http_get(lab, gateway, "web-a.lab.test").json["site"] == "web-a"
        assert visits.greeting(lab, lab.address(gateway), 7000) == "echo-b"

    rotation = Rotation(visit, GATEWAYS)
    downloads = [http_download(lab, gateway, "web-c.lab.test", DOWNLOAD, rate=1e6) for gateway in ("gw1", "gw2")]
    try:
        with crowd(rotation, size=4) as failures:
            await eventually(rotation.more(10), 60)
            await fleet.start_gateway("gw4")
            await fleet.all_live(["gw4"])
            assert [fetch for fetch in fetch_all(lab, SERVICES, ("gw4",)) if not fetch.ok] == []
            rotation.join("gw4")
            await eventually(rotation.more(10), 60)

            rotation.leave("gw3")
            await eventually(lambda: rotation.idle("gw3"), 30)
            drop(fleet, "/gateways/gw3")
            await truth.settled(fleet, 30)
            await eventually(rotation.more(10), 60)
        assert failures == []
        assert all(download.lasts for download in downloads)
        for download in downloads:
            download.hurry()
            download.join(60)
            assert download.sha256 == pattern_sha256(DOWNLOAD)
        for agent in AGENTS:
            assert set(await peers_of(fleet, agent)) == {"gw1", "gw2", "gw4"}
    finally:
        for download in downloads:
            download.hurry()
        await as_before(fleet)
    assert [fetch for fetch in fetch_all(lab, SERVICES) if not fetch.ok] == []


async def as_before(fleet: Fleet) -> None:
    """The three gateways of everybody, and no fourth."""
    there = {node["name"] for node in items(fleet, "gateways")}
    if "gw3" not in there:
        await come_back(fleet, "gw3")
    if "gw4" in there:
        drop(fleet, "/gateways/gw4")
    if fleet.node_host("gw4").directory.exists():
        await forget(fleet, "gw4")


async def test_agents_do_not_reach_each_other_even_if_one_of_them_cheats(fleet: Fleet) -> None:
    """The cheat routes its neighbour's address into its own tunnel and has its engine accept it for a gateway."""
    doors = {agent: (in_tunnel(fleet, agent), published_port(fleet, agent)) for agent in AGENTS}
    for cheat, victim in permutations(AGENTS, 2):
        for gateway in GATEWAYS:
            with watching(fleet.lab, gateway, ATTEMPT) as passed, watching(fleet.lab, victim, ATTEMPT) as arrived:
                await cheating(fleet, cheat, gateway, doors[victim])
                assert all(passed.packets().values()), f"{cheat} did not get to {gateway}: nothing was tried"
                assert not any(arrived.packets().values()), f"{cheat} reached {victim} through {gateway}"


def published_port(fleet: Fleet, agent: str) -> int:
    services = get(fleet, "/services")["items"]
    targets = [target for service in services for target in service["targets"] if target["agent"] == agent]
    port: int = targets[0]["agent_port"]
    return port


async def cheating(fleet: Fleet, cheat: str, gateway: str, door: tuple[str, int]) -> None:
    """Try another agent's open port, and to ping it, through a gateway; everything is put back."""
    lab, interface, address = fleet.lab, fleet.node_host(cheat).interface, door[0]
    device = UserspaceDevice(interface)
    peer = replace((await peers_of(fleet, cheat))[gateway].peer, endpoint=None)
    await device.apply([SetPeer(replace(peer, allowed_ips=peer.allowed_ips | {ip_network(address)}))])
    lab.run(cheat, ["ip", "route", "add", f"{address}/32", "dev", interface], check=True)
    try:
        with lab.in_namespace(cheat), pytest.raises(OSError, match=r"timed out|unreachable|refused"):
            socket.create_connection(door, timeout=0.2, source_address=("", CHEAT_PORT)).close()
        assert lab.run(cheat, ["ping", "-c1", "-W0.2", "-s", str(CHEAT_PING), address]).returncode != 0
    finally:
        lab.run(cheat, ["ip", "route", "del", f"{address}/32", "dev", interface], check=True)
        await device.apply([SetPeer(peer)])
