"""Real packets to targets that have IPv6, through the tables of a gateway and an agent; the agent's own ::1 too."""

import asyncio
import socket
import time
from dataclasses import replace
from ipaddress import IPv6Address, ip_address, ip_network

import pytest

from kakuremichi.dataplane.nftables import conntrack
from kakuremichi.dataplane.nftables.agent import AgentTable, Target, agent_desired
from kakuremichi.dataplane.nftables.elements import Ports
from kakuremichi.dataplane.nftables.gateway import L4Service, gateway_desired, gateway_elements
from kakuremichi.dataplane.nftables.guards import Guards
from kakuremichi.dataplane.nftables.marks import Proto, mark_of
from kakuremichi.dataplane.nftables.reconcile import Reconciler
from kakuremichi.model.options import Limits
from support.nftables_net import (
    AGENT,
    AGENT6,
    LAN_HOST6,
    PUBLIC,
    PUBLIC6,
    SILENCE_S,
    SLOT_ADDRESS,
    SLOT_ADDRESS6,
    STRANGER6,
    VISITOR,
    VISITOR6,
    Net,
)
from support.nftables_pair import table_of

pytestmark = pytest.mark.root

TARGETS: dict[tuple[Proto, Ports], Target] = {
    ("tcp", Ports.of(20001)): Target(IPv6Address("::1"), 5432),
    ("udp", Ports.of(20001)): Target(IPv6Address("::1"), 53),
    ("tcp", Ports.of(20002)): Target(IPv6Address(LAN_HOST6), 80),
    ("udp", Ports.of(20002)): Target(IPv6Address(LAN_HOST6), 53),
}
TCP = L4Service(number=1, proto="tcp", ports=Ports.of(5432), agent_port=20001, target6=AGENT6)
UDP = L4Service(number=2, proto="udp", ports=Ports.of(53), agent_port=20001, target6=AGENT6)
LAN_TCP = replace(TCP, number=3, ports=Ports.of(81), agent_port=20002)
LAN_UDP = replace(UDP, number=4, ports=Ports.of(54), agent_port=20002)
LINE = b"x" * 999 + b"\n"
SLOW = 200_000  # bytes a second
LINES = 700
LEAST_S = (LINES * len(LINE) - SLOW - 70_000) / SLOW  # a second's worth and one large packet may come at once


async def apply(net: Net, *services: L4Service, **more: object) -> Reconciler:
    gateways = frozenset(map(ip_address, (SLOT_ADDRESS, SLOT_ADDRESS6)))
    agent = AgentTable("wg", AGENT, gateways, AGENT6, targets=TARGETS)
    reconciler = Reconciler(net.nft("gw"))
    reports = (
        await Reconciler(net.nft("agent")).full(agent_desired(agent)),
        await reconciler.full(gateway_desired(replace(table_of(*services), **more))),  # type: ignore[arg-type]
    )
    assert [report.refused for report in reports] == [(), ()]
    return reconciler


async def test_tcp_and_udp_reach_the_agents_own_loopback_and_another_machine(net: Net) -> None:
    await apply(net, TCP, UDP, LAN_TCP, LAN_UDP)

    async with (
        net.tcp_server("agent", "::1", 5432, "loopback") as at_loopback,
        net.udp_server("agent", "::1", 53, "loopback"),
        net.tcp_server("lan", LAN_HOST6, 80, "lan") as at_lan,
        net.udp_server("lan", LAN_HOST6, 53, "lan"),
    ):
        assert await net.greeting("visitor", VISITOR6, PUBLIC6, 5432) == "loopback:5432"
        assert await net.greeting("visitor", VISITOR6, PUBLIC6, 81) == "lan:80"
        with net.bound("visitor", socket.SOCK_DGRAM, VISITOR6) as sock:
            assert await net.ask(sock, PUBLIC6, 53) == "loopback:53"
            assert await net.ask(sock, PUBLIC6, 54) == "lan:53"
        assert await net.greeting("agent", "::1", "::1", 5432) == "loopback:5432"  # the host's own is as it was
    assert at_loopback == [SLOT_ADDRESS6, "::1"]
    assert at_lan == ["fd00:7::1"]  # masqueraded
    for side in ("gw", "agent"):
        assert [count.connections for count in (await net.nft(side).counters()).values()] == [1, 1, 1, 1]


async def test_the_gateways_own_connections_get_the_slots_address(net: Net) -> None:
    await apply(net)

    async with net.tcp_server("agent", "::1", 5432, "loopback") as clients:
        assert await net.greeting("gw", "::", str(AGENT6), 20001) == "loopback:5432"
    assert clients == [SLOT_ADDRESS6]


async def test_visitors_by_ipv4_find_nobody_where_nothing_carries_them(net: Net) -> None:
    await apply(net, UDP)

    async with net.udp_server("agent", "::1", 53, "loopback") as clients:
        with net.bound("visitor", socket.SOCK_DGRAM, VISITOR) as sock, pytest.raises((TimeoutError, ConnectionError)):
            await net.ask(sock, PUBLIC, 53, within=SILENCE_S)
    assert clients == []


async def test_allow_lists_limits_and_guards_hold_before_a_byte_reaches_the_agent(net: Net) -> None:
    only = frozenset({ip_network(f"{VISITOR6}/128")})
    few = replace(LAN_TCP, limits=Limits(connections=1))
    await apply(net, replace(TCP, sources=only), few, guards=Guards(connections=2))

    async with net.tcp_server("agent", "::1", 5432) as clients, net.tcp_server("lan", LAN_HOST6, 80, "lan"):
        assert await net.silent("visitor", STRANGER6, PUBLIC6, 5432)
        assert clients == []
        async with net.connect("visitor", VISITOR6, PUBLIC6, 81) as (reader, _):
            assert await reader.readline() == b"lan:80\n"
            with pytest.raises(ConnectionRefusedError):
                await net.greeting("visitor", STRANGER6, PUBLIC6, 81)
            async with net.connect("visitor", VISITOR6, PUBLIC6, 5432):
                assert await net.silent("visitor", VISITOR6, PUBLIC6, 5432)  # a third one of the same /64
    assert net.dropped("gw", "guard") > 0


async def test_bytes_towards_visitors_and_towards_haproxy_come_no_faster_than_said(net: Net) -> None:
    limited = replace(TCP, limits=Limits(bandwidth=SLOW))
    await apply(net, limited, shaped={(AGENT6, 20002): SLOW, (AGENT, 20002): SLOW})

    async with net.tcp_server("agent", "::1", 5432), net.tcp_server("lan", LAN_HOST6, 80):
        assert await _seconds_for_bulk(net, "visitor", VISITOR6, PUBLIC6, 5432) > LEAST_S
        assert await _seconds_for_bulk(net, "gw", "::", str(AGENT6), 20002) > LEAST_S


async def _seconds_for_bulk(net: Net, host: str, source: str, to: str, port: int) -> float:
    async with net.connect(host, source, to, port) as (reader, writer):
        await reader.readline()
        began = time.monotonic()
        writer.write(LINE * LINES)
        for _ in range(LINES):
            assert await asyncio.wait_for(reader.readline(), 30) == LINE
        return time.monotonic() - began


async def test_a_flow_ends_when_its_service_moves_and_others_stay(net: Net) -> None:
    reconciler = await apply(net, TCP, UDP)

    async with (
        net.udp_server("agent", "::1", 53, "old"),
        net.udp_server("lan", LAN_HOST6, 53, "new"),
        net.tcp_server("agent", "::1", 5432),
        net.connect("visitor", VISITOR6, PUBLIC6, 5432) as (reader, writer),
    ):
        await reader.readline()
        with net.bound("visitor", socket.SOCK_DGRAM, VISITOR6) as sock:
            assert await net.ask(sock, PUBLIC6, 53) == "old:53"
            report = await reconciler.change({2: gateway_elements(replace(UDP, agent_port=20002))})
            assert report.flush == {mark_of(2)}
            await conntrack.flush_all(report.flush, netns=net.netns("gw"))
            assert await net.ask(sock, PUBLIC6, 53) == "new:53"
        writer.write(b"still here\n")
        assert await asyncio.wait_for(reader.readline(), 5) == b"still here\n"


async def test_a_service_may_move_from_an_ipv4_target_to_one_that_has_ipv6(net: Net) -> None:
    four = replace(UDP, target=AGENT, target6=None)
    reconciler = await apply(net, four)

    report = await reconciler.change({2: gateway_elements(UDP)})

    assert report.refused == ()
    assert report.flush == {mark_of(2)}
    async with net.udp_server("agent", "::1", 53, "six"):
        with net.bound("visitor", socket.SOCK_DGRAM, VISITOR6) as sock:
            assert await net.ask(sock, PUBLIC6, 53) == "six:53"


async def test_the_flows_of_one_gateway_are_forgotten_and_of_no_other(net: Net) -> None:
    await apply(net, TCP)

    async with (
        net.tcp_server("agent", "::1", 5432),
        net.connect("visitor", VISITOR6, PUBLIC6, 5432) as (reader, writer),
    ):
        await reader.readline()
        neighbour, itself = IPv6Address(SLOT_ADDRESS6) + 1, IPv6Address(SLOT_ADDRESS6)
        # What was forgotten is a new flow to the kernel, here to the same target as before.
        for sources, flows in (([neighbour, ip_address(SLOT_ADDRESS)], 1), ([itself], 2)):
            await conntrack.flush_from(sources, netns=net.netns("agent"))
            writer.write(b"still here\n")
            assert await asyncio.wait_for(reader.readline(), 5) == b"still here\n"
            (counted,) = [count for count in (await net.nft("agent").counters()).values() if count.packets]
            assert counted.connections == flows


async def test_a_packet_to_the_loopback_from_the_tunnel_is_dropped(net: Net) -> None:
    """The route that leads translated packets to ::1 opens nothing to those that come with it."""
    await apply(net)
    await Reconciler(net.nft("gw")).remove()
    net.ip("gw", f"addr add {SLOT_ADDRESS6}/128 dev wg nodad")

    async with net.udp_server("agent", "::1", 53, "loopback") as clients:
        net.inside("gw", lambda: _send_raw("wg", SLOT_ADDRESS6, "::1", 53))
        with net.bound("gw", socket.SOCK_DGRAM, SLOT_ADDRESS6) as sock:  # comes behind it on the same wire
            assert await net.ask(sock, str(AGENT6), 20001) == "loopback:53"
    assert clients == [SLOT_ADDRESS6]


async def test_a_hostile_gateway_reaches_only_published_ports(net: Net) -> None:
    await apply(net)
    await Reconciler(net.nft("gw")).remove()
    stranger = str(IPv6Address(SLOT_ADDRESS6) + 1)
    for line in (
        f"addr add {SLOT_ADDRESS6}/128 dev wg nodad",
        f"addr add {stranger}/128 dev wg nodad",
        "route add fd00:7::/64 dev wg",
    ):
        net.ip("gw", line)

    async with net.tcp_server("agent", "::", 22, "ssh"), net.tcp_server("lan", LAN_HOST6, 22, "lan"):
        assert await net.silent("gw", SLOT_ADDRESS6, str(AGENT6), 22)
        assert await net.silent("gw", SLOT_ADDRESS6, LAN_HOST6, 22)
        spoofed = net.dropped("agent", "spoofs", 2)
        assert await net.silent("gw", stranger, str(AGENT6), 20001)  # a slot that is no gateway
        assert net.dropped("agent", "spoofs", 2) > spoofed
        assert await net.greeting("lan", "::", LAN_HOST6, 22) == "lan:22"


def _send_raw(interface: str, source: str, to: str, port: int) -> None:
    """An IPv6 datagram with addresses that no honest stack would send this way."""
    addresses = IPv6Address(source).packed + IPv6Address(to).packed
    udp = (40000).to_bytes(2) + port.to_bytes(2) + (9).to_bytes(2) + b"\0\0?"
    summed = addresses + len(udp).to_bytes(4) + b"\0\0\0\x11" + udp + b"\0"
    total = sum(int.from_bytes(summed[at : at + 2]) for at in range(0, len(summed), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    udp = udp[:6] + (~total & 0xFFFF).to_bytes(2) + udp[8:]
    packet = b"\x60\0\0\0" + len(udp).to_bytes(2) + b"\x11\x40" + addresses + udp
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x86DD)) as raw:
        raw.sendto(packet, (interface, 0x86DD, 0, 0, bytes.fromhex("020000000001")))
