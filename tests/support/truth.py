"""What the registry says and what the nodes of a lab really have, in the same words, so that they can be compared.

The real side is read from the kernel, the WireGuard engine and HAProxy, never from what a node reports.
"""

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from subprocess import CalledProcessError
from typing import Any

from kakuremichi.dataplane.haproxy.client import ProxyError
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.listening import host_has_ipv6
from kakuremichi.dataplane.haproxy.proxy import Haproxy
from kakuremichi.dataplane.links.desired import LOOPBACK6
from kakuremichi.dataplane.nftables.reader import parse_table
from kakuremichi.dataplane.wireguard.device import DeviceError
from kakuremichi.dataplane.wireguard.userspace import UserspaceDevice
from kakuremichi.fleet.lab_fleet import AGENTS, GATEWAYS, Fleet
from kakuremichi.model.addresses import AGENT_HOST, tunnel_address6, tunnel_network6
from kakuremichi.model.keys import key_text
from kakuremichi.node.state import NodeState

OUR_ROUTES = "107"  # the routing protocol number that marks them
OWN_LOOPBACK = str(LOOPBACK6.network_address)  # an agent's route to its own ::1

Door = tuple[str, str]  # (tcp or udp, port or range)


@dataclass(frozen=True, slots=True)
class Behind:
    """What a port leads to. A range (`port` 0) keeps its numbers; `sources` None is everybody."""

    address: str
    port: int
    sources: frozenset[str] | None = None


@dataclass(frozen=True)
class NodeTruth:
    """One node. `hosts` maps a name, or `:port`, to its servers (address, port) in HAProxy; the agents have none.

    What HAProxy has and should not have stands in `hosts` under a name that no service can have. While it changes, that
    is a moment's view: a server comes before its route and goes after it.
    """

    hosts: Mapping[str, frozenset[tuple[str, int]]] = field(default_factory=dict)
    doors: Mapping[Door, Behind] = field(default_factory=dict)
    peers: Mapping[str, frozenset[str]] = field(default_factory=dict)  # public key → allowed IPs
    routes: frozenset[str] = frozenset()


Truth = dict[str, NodeTruth]


def wanted(fleet: Fleet) -> Truth:
    """As the portal's API tells it."""
    with fleet.api() as api:
        gateways, agents, services = (api.get(f"/{kind}")["items"] for kind in ("gateways", "agents", "services"))
    network6 = _network6(fleet, agents)
    at = {agent["name"]: _Addresses(agent["subnet"], network6) for agent in agents}
    hosts = {key: _servers(service, at) for service in services if (key := _carried(service))}
    doors = dict(_public_door(service, at) for service in services if service["port"] and service["targets"])
    agent_peers = {agent["public_key"]: at[agent["name"]].allowed(AGENT_HOST) for agent in agents}
    routes = frozenset(each.subnet for each in at.values()) | ({str(network6)} if network6 else set())
    truth = {gateway["name"]: NodeTruth(hosts, doors, agent_peers, routes) for gateway in gateways}
    for agent in agents:
        peers = {each["public_key"]: at[agent["name"]].allowed(each["slot"]) for each in gateways}
        doors = dict(_agent_doors(services, agent["name"]))
        truth[agent["name"]] = NodeTruth({}, doors, peers, frozenset({OWN_LOOPBACK} if network6 else ()))
    return truth


@dataclass(frozen=True, slots=True)
class _Addresses:
    """The addresses of one agent's subnet, of both families."""

    subnet: str
    network6: IPv6Network | None

    def of(self, number: int, version: int = 4) -> str:
        four = IPv4Network(self.subnet)[number]
        return str(tunnel_address6(self.network6, four) if version == 6 and self.network6 else four)

    def allowed(self, number: int) -> frozenset[str]:
        """What a peer of this number may send from."""
        six = {f"{self.of(number, 6)}/128"} if self.network6 else set()
        return frozenset({f"{self.of(number)}/32"} | six)


def _network6(fleet: Fleet, agents: Iterable[Mapping[str, Any]]) -> IPv6Network | None:
    """The deployment's network; None where the kernel has no IPv6."""
    states = (NodeState(fleet.node_host(agent["name"]).directory / "state") for agent in agents)
    enrolled = next((enrolment for state in states if (enrolment := state.enrolment())), None)
    return tunnel_network6(enrolled.deployment) if enrolled and host_has_ipv6() else None


async def real(fleet: Fleet, names: Iterable[str]) -> Truth:
    return {name: await _real_node(fleet, name) for name in names}


async def differences(fleet: Fleet) -> list[str]:
    """One sentence for each node that is not as the registry says, or cannot be read."""
    want = await asyncio.to_thread(wanted, fleet)
    found = [await _difference(fleet, name, node) for name, node in want.items()]
    return [each for each in found if each]


async def _difference(fleet: Fleet, name: str, want: NodeTruth) -> str:
    """ "" if there is none."""
    try:
        have = await _real_node(fleet, name)
    except (CalledProcessError, DeviceError, ProxyError) as error:
        return f"{name}: cannot be read: {error}"
    return "" if have == want else f"{name}: has {have}, wanted is {want}"


async def settled(fleet: Fleet, within_s: float = 60.0) -> None:
    """Wait until every node is as the registry says; fails with what is not.

    A node that hears of many removals by a snapshot only, as it was just reconnecting, keeps them for 30 s.
    """
    deadline = time.monotonic() + within_s
    while left := await differences(fleet):
        assert time.monotonic() < deadline, "\n".join(left)
        await asyncio.sleep(0.1)


async def fingerprint(fleet: Fleet, names: Iterable[str] = (*GATEWAYS, *AGENTS)) -> dict[str, object]:
    """Everything that a node holds, as it stands there: rules, elements, peers, routes, HAProxy's process and map."""
    found: dict[str, object] = {}
    for name in names:
        listing = await asyncio.to_thread(_nft_json, fleet, name)
        proxy = fleet.node_host(name).haproxy / "admin.sock"
        found[name] = (
            _without_counters(json.loads(listing)["nftables"]),
            await _real_node(fleet, name),
            (await Haproxy(Layout(proxy.parent)).running()).pid if proxy.exists() else 0,
        )
    return found


def _carried(service: Mapping[str, Any]) -> str:
    """The key of HAProxy's map that leads to the service; "" if HAProxy has no part in it."""
    if service["kind"] == "http":
        return str(service["host"])
    single = service["kind"] == "tcp" and service["last_port"] in (0, service["port"])
    return f":{service['port']}" if single and service["targets"] else ""


def _version(service: Mapping[str, Any]) -> int:
    """The family that its targets have."""
    asked = service.get("options", {}).get("upstream", {}).get("ipv6")
    return 6 if asked or any(":" in target["address"] for target in service["targets"]) else 4


def _servers(service: Mapping[str, Any], at: Mapping[str, _Addresses]) -> frozenset[tuple[str, int]]:
    version = _version(service)
    return frozenset(
        (at[target["agent"]].of(AGENT_HOST, version), target["agent_port"]) for target in service["targets"]
    )


def _public_door(service: Mapping[str, Any], at: Mapping[str, _Addresses]) -> tuple[Door, Behind]:
    target = service["targets"][0]
    address = at[target["agent"]].of(AGENT_HOST, _version(service))
    sources = frozenset(service["sources"]) or None
    if service["last_port"] > service["port"]:
        return (service["kind"], f"{service['port']}-{service['last_port']}"), Behind(address, 0, sources)
    return (service["kind"], str(service["port"])), Behind(address, target["agent_port"], sources)


def _agent_doors(services: Iterable[Mapping[str, Any]], agent: str) -> Iterable[tuple[Door, Behind]]:
    for service in services:
        proto = "udp" if service["kind"] == "udp" else "tcp"
        span = max(0, service["last_port"] - service["port"])
        for target in service["targets"]:
            if target["agent"] == agent:
                first = target["agent_port"]
                ports = f"{first}-{first + span}" if span else str(first)
                yield (proto, ports), Behind(target["address"], 0 if span else target["port"])


async def _real_node(fleet: Fleet, name: str) -> NodeTruth:
    listing = await asyncio.to_thread(_nft_json, fleet, name)
    device = await UserspaceDevice(fleet.lab.namespace(name)).read()
    peers = {
        key_text(key): frozenset(str(network) for network in state.peer.allowed_ips)
        for key, state in device.peers.items()
    }
    layout = Layout(fleet.node_host(name).haproxy)
    hosts = await _real_hosts(layout) if layout.admin_socket.exists() else {}
    routes = frozenset[str]()
    for family in ("-4", "-6"):
        shown = ["ip", "-j", family, "route", "show", "table", "all", "proto", OUR_ROUTES]
        listed = await asyncio.to_thread(fleet.lab.run, name, shown)
        routes |= {route["dst"] for route in json.loads(listed.stdout or "[]")}
    return NodeTruth(hosts, _real_doors(listing), peers, routes)


async def _real_hosts(layout: Layout) -> dict[str, frozenset[tuple[str, int]]]:
    actual = await Haproxy(layout).read()
    ready = {
        number: frozenset((server.address, server.port) for server in servers.values() if server.ready)
        for number, servers in actual.servers.items()
    }
    hosts = {}
    routed = set[int]()
    for key, values in actual.routes.items():
        if len(values) != 1 or None in values:
            hosts[f"{key}, not one route of ours but {sorted(map(str, values))}"] = frozenset[tuple[str, int]]()
        for route in filter(None, values):
            hosts[key] = ready.get(route.number, frozenset())
            routed.add(route.number)
    left = {f"p{number}, no route": servers for number, servers in ready.items() if servers and number not in routed}
    return hosts | left


def _real_doors(listing: str) -> dict[Door, Behind]:
    elements = parse_table(listing.encode()).elements
    by_container: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {}
    for (container, key), data in elements.items():
        by_container.setdefault(container, []).append((key, data))
    targets = {
        (family, key[0]): data
        for family, containers in (("ipv4", ("to4", "range4")), ("ipv6", ("to6", "range6")))
        for container in containers
        for key, data in by_container.get(container, ())
    }
    allowed: dict[str, set[str]] = {}
    for (mark, network), _ in by_container.get("allow4", ()):
        allowed.setdefault(mark, set()).add(network if "/" in network else f"{network}/32")
    doors = {}
    for container in ("ports", "ranges"):
        for (family, proto, ports), (mark,) in by_container.get(container, ()):
            if (family, mark) not in targets:
                continue  # HAProxy carries it
            address, *port = targets[family, mark]
            sources = frozenset(allowed[mark]) if mark in allowed else None
            doors[proto, ports] = Behind(address, int(port[0]) if port else 0, sources)
    return doors


def _nft_json(fleet: Fleet, name: str) -> str:
    return fleet.lab.run(name, ["nft", "-j", "list", "table", "inet", "kakuremichi"], check=True).stdout


def _without_counters(value: Any) -> Any:
    if isinstance(value, dict):
        # What the kernel itself enters, per visitor, stands in the sets that have a size.
        moving = {"counter", "metainfo"} | ({"elem"} if "size" in value else set())
        return {key: _without_counters(each) for key, each in value.items() if key not in moving}
    if isinstance(value, list):
        return [_without_counters(each) for each in value]
    return value
