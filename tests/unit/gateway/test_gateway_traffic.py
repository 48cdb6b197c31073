"""Which packets a gateway's services live by, for the firewalls of other programs to be judged by."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import cast

import pytest

from kakuremichi.dataplane.foreign.host import Host
from kakuremichi.dataplane.foreign.mending import Marked, ToPort
from kakuremichi.dataplane.foreign.packet import Interface
from kakuremichi.dataplane.links.messages import RouteRow
from kakuremichi.dataplane.nftables.gateway import TCP_DOOR
from kakuremichi.model.ids import ServiceId
from kakuremichi.model.options import Options, Upstream
from kakuremichi_gateway.model import GatewayModel, RouteFacts
from kakuremichi_gateway.traffic import STRANGERS, GatewayTraffic

AGENT = IPv4Address("10.1.0.100")
UPLINK, TUNNEL = Interface("eth0", 2), Interface("kk0", 7)
HOST = Host((RouteRow(IPv4Network("0.0.0.0/0"), 2, 0, 254, 1),), {2: "eth0", 7: "kk0"})
GAME = RouteFacts(
    service_id=ServiceId("game"), kind="tcp", host="", path="", first_port=7000, last_port=7000, sources=(),
    targets=(("game-1", AGENT, 20001, 1),),
)  # fmt: skip
WEB = replace(GAME, service_id=ServiceId("web"), kind="http", host="web.example.net", first_port=0, last_port=0)


def traffic(*routes: RouteFacts) -> GatewayTraffic:
    model = GatewayModel(cast("object", None), "pool")  # type: ignore[arg-type]  # signatures are not looked at here
    model.routes = {facts.service_id: facts for facts in routes}
    return GatewayTraffic(model, "kk0", doors=(80, 443), tunnel=51820)


def test_a_tcp_service_is_forwarded_into_the_tunnel_and_back_for_anybody() -> None:
    forwarded, tunnel = traffic(GAME).flows(GAME, HOST)

    assert forwarded.accept == Marked(0x6B000000, 0xFF800000)
    assert len(forwarded.ways) == len(STRANGERS[4])
    there, back = forwarded.ways[0]
    assert (there.hook, there.iif, there.oif, there.daddr, there.dport) == ("forward", UPLINK, TUNNEL, AGENT, 20001)
    assert (back.hook, back.iif, back.oif, back.saddr, back.sport) == ("forward", TUNNEL, UPLINK, AGENT, 20001)
    assert (there.reply, back.reply, there.translated) == (False, True, True)
    assert tunnel.accept == ToPort("udp", 51820)


def test_a_service_for_some_is_judged_by_a_visitor_who_may_come() -> None:
    facts = replace(GAME, sources=(IPv4Network("198.51.100.0/24"), IPv6Network("2001:db8::/32")))
    ways = traffic(facts).flows(facts, HOST)[0].ways
    assert [there.saddr for there, _ in ways] == [IPv4Address("198.51.100.0")]


def test_a_web_service_needs_the_doors_and_the_tunnel_of_the_families_that_the_host_has() -> None:
    assert [flow.accept for flow in traffic(WEB).flows(WEB, HOST)] == [
        ToPort("tcp", 80),
        ToPort("tcp", 443),
        ToPort("udp", 51820),
    ]
    both = Host((*HOST.routes, RouteRow(IPv6Network("::/0"), 2, 0, 254, 1)), HOST.names)
    assert [flow.ways[0][0].version for flow in traffic(WEB).flows(WEB, both)] == [4, 4, 6, 6, 4]


def test_visitors_whom_haproxy_carries_come_to_its_door_with_the_mark() -> None:
    both = Host((*HOST.routes, RouteRow(IPv6Network("::/0"), 2, 0, 254, 1)), HOST.names)
    forwarded, carried, _ = traffic(GAME).flows(GAME, both)
    ((there,), *_) = carried.ways
    assert (forwarded.ways[0][0].hook, forwarded.ways[0][0].version) == ("forward", 4)
    assert (there.hook, there.version, there.dport, there.translated) == ("input", 6, TCP_DOOR, True)
    assert carried.accept == Marked(0x6B000000, 0xFF800000)

    proxied = replace(GAME, options=Options(upstream=Upstream(proxy_protocol=2)))
    assert [flow.ways[0][0].hook for flow in traffic(proxied).flows(proxied, HOST)] == ["input", "input"]


def test_a_host_whose_uplink_nobody_knows_leaves_the_interface_open() -> None:
    (there, _), *_ = traffic(GAME).flows(GAME, Host())[0].ways
    assert (there.iif, there.oif) == (None, None)


def test_a_service_without_a_target_is_not_asked_about() -> None:
    nowhere = replace(GAME, service_id=ServiceId("nowhere"), targets=())
    assert list(traffic(GAME, nowhere).services()) == [("route", "game")]


def test_only_the_facts_of_a_route_are_taken() -> None:
    with pytest.raises(TypeError, match="the facts of a route are needed"):
        traffic().flows("game", HOST)


def test_visitors_of_an_ipv6_target_are_forwarded_by_ipv6_and_carried_by_ipv4() -> None:
    both = Host((*HOST.routes, RouteRow(IPv6Network("::/0"), 2, 0, 254, 1)), HOST.names)
    agent6 = IPv6Address("fd00:1::10.1.0.100")
    facts = replace(GAME, targets=(("game-1", agent6, 20001, 1),))
    carried, forwarded, _ = traffic(facts).flows(facts, both)
    ((come,), *_), ((there, back), *_) = carried.ways, forwarded.ways
    assert (come.hook, come.version, come.dport) == ("input", 4, TCP_DOOR)
    assert (there.hook, there.version, there.daddr) == ("forward", 6, agent6)
    assert (back.hook, back.version, back.saddr) == ("forward", 6, agent6)
