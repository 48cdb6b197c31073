"""Which packets an agent's targets live by, for the firewalls of other programs to be judged by."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from typing import cast

import pytest

from kakuremichi.dataplane.foreign.host import Host
from kakuremichi.dataplane.foreign.mending import Marked
from kakuremichi.dataplane.foreign.packet import Interface
from kakuremichi.dataplane.links.messages import RouteRow
from kakuremichi.model.addresses import parse_endpoint
from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import PublicKey
from kakuremichi_agent.model import AgentModel, GatewayFacts, TargetFacts
from kakuremichi_agent.traffic import AgentTraffic

LAN, TUNNEL = Interface("lan0", 3), Interface("kk0", 7)
HOST = Host(
    (
        RouteRow(IPv4Network("0.0.0.0/0"), 2, 0, 254, 1),
        RouteRow(IPv4Network("192.168.2.0/24"), 3, 0, 254, 1),
        RouteRow(IPv4Network("192.168.2.122/32"), 3, 0, 255, 2),
    ),
    {2: "eth0", 3: "lan0", 7: "kk0"},
)
GATEWAY = IPv4Address("10.1.0.1")


def target(address: str, proto: str = "tcp") -> TargetFacts:
    return TargetFacts("web-1", proto, 20001, 20001, ip_address(address), 8080)


def traffic(*targets: TargetFacts) -> AgentTraffic:
    model = AgentModel(cast("object", None), "pool", IPv4Network("10.1.0.0/24"), cast("object", None))  # type: ignore[arg-type]  # neither signatures nor the allow file are looked at here
    endpoint = parse_endpoint("203.0.113.1:51820")
    model.gateways[NodeId("gw1")] = GatewayFacts(NodeId("gw1"), GATEWAY, PublicKey(bytes(32)), endpoint, 1)
    model.targets = {facts.target_id: facts for facts in targets}
    return AgentTraffic(model, "kk0")


def test_a_target_on_another_machine_is_forwarded_there_and_back() -> None:
    facts = target("192.168.2.130")
    (flow,) = traffic(facts).flows(facts, HOST)
    ((there, back),) = flow.ways
    assert flow.accept == Marked(0x6B800000, 0xFF800000)
    assert (there.hook, there.iif, there.oif, there.saddr, there.dport) == ("forward", TUNNEL, LAN, GATEWAY, 8080)
    assert (back.hook, back.iif, back.oif, back.daddr, back.sport) == ("forward", LAN, TUNNEL, GATEWAY, 8080)
    assert there.mark & 0xFF800000 == 0x6B800000


@pytest.mark.parametrize("address", ["127.0.0.1", "192.168.2.122"])
def test_a_target_on_this_host_comes_in_and_is_not_forwarded(address: str) -> None:
    facts = target(address, "udp")
    (flow,) = traffic(facts).flows(facts, HOST)
    ((there,),) = flow.ways
    assert (there.hook, there.iif, there.proto, there.daddr) == ("input", TUNNEL, "udp", facts.address)


def test_a_target_behind_the_default_route_leaves_by_it() -> None:
    facts = target("172.20.0.9")
    assert traffic(facts).flows(facts, HOST)[0].ways[0][0].oif == Interface("eth0", 2)


def test_an_ipv6_target_is_judged_by_its_own_family() -> None:
    facts = target("fd00:5::1")
    there = traffic(facts).flows(facts, HOST)[0].ways[0][0]
    assert (there.version, there.saddr, there.daddr) == (6, None, IPv6Address("fd00:5::1"))
    with_ipv6 = traffic(facts)
    known = with_ipv6.model.gateways[NodeId("gw1")]
    beside = IPv6Address("fd00:1::10.1.0.1")
    with_ipv6.model.gateways[NodeId("gw1")] = replace(known, address6=beside)
    assert [ways[0].saddr for ways in with_ipv6.flows(facts, HOST)[0].ways] == [beside]


def test_every_target_is_asked_about_under_its_key() -> None:
    facts = target("127.0.0.1")
    assert traffic(facts).services() == {("target", "web-1"): facts}
    with pytest.raises(TypeError, match="the facts of a target are needed"):
        traffic().flows(None, HOST)
