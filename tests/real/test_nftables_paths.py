"""Real packets through the tables of a gateway and an agent."""

import asyncio
import socket
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from kakuremichi.dataplane.nftables import conntrack
from kakuremichi.dataplane.nftables.agent import AgentTable, Target, agent_desired
from kakuremichi.dataplane.nftables.elements import Ports
from kakuremichi.dataplane.nftables.gateway import GatewayTable, L4Service, gateway_desired, gateway_elements
from kakuremichi.dataplane.nftables.marks import Proto, mark_of, target_number
from kakuremichi.dataplane.nftables.reconcile import Reconciler
from support.nftables_net import (
    AGENT,
    AGENT6,
    AGENT_B,
    EVERYWHERE,
    LAN_HOST,
    PUBLIC,
    PUBLIC6,
    SILENCE_S,
    SLOT_ADDRESS,
    SLOT_ADDRESS6,
    STRANGER,
    STRANGER6,
    VISITOR,
    VISITOR6,
    Net,
)

pytestmark = pytest.mark.root


def service(number: int, port: int, agent_port: int, **more: object) -> L4Service:
    made = L4Service(number=number, proto="tcp", ports=Ports.of(port), agent_port=agent_port, target=AGENT)
    return replace(made, **more)  # type: ignore[arg-type]


def gateway(*services: L4Service, doors: dict[int, int] | None = None) -> GatewayTable:
    return GatewayTable("wg", 7, doors or {}, frozenset({("tcp", 8080)}), {each.number: each for each in services})


def agent(targets: dict[tuple[Proto, Ports], tuple[str, int]]) -> AgentTable:
    return AgentTable(
        "wg",
        AGENT,
        frozenset(map(ip_address, (SLOT_ADDRESS, SLOT_ADDRESS6))),
        AGENT6,
        frozenset({("tcp", 9000)}),
        {key: Target(ip_address(address), port) for key, (address, port) in targets.items()},
    )


async def apply(net: Net, gw: GatewayTable, ag: AgentTable) -> Reconciler:
    reports = (
        await Reconciler(net.nft("agent")).full(agent_desired(ag)),
        await (reconciler := Reconciler(net.nft("gw"))).full(gateway_desired(gw)),
    )
    assert [report.refused for report in reports] == [(), ()]
    return reconciler


LOOPBACK: dict[tuple[Proto, Ports], tuple[str, int]] = {
    ("tcp", Ports.of(20001)): ("127.0.0.1", 5432),
    ("udp", Ports.of(20001)): ("127.0.0.1", 53),
}


async def test_tcp_and_udp_reach_loopback_and_lan_targets_from_the_slots_address(net: Net) -> None:
    targets = {**LOOPBACK, ("tcp", Ports.of(20002)): (LAN_HOST, 80), ("udp", Ports.of(20002)): (LAN_HOST, 53)}
    udp = [service(3, 53, 20001, proto="udp"), service(4, 54, 20002, proto="udp")]
    await apply(net, gateway(service(1, 5432, 20001), service(2, 81, 20002), *udp), agent(targets))

    async with (
        net.tcp_server("agent", "127.0.0.1", 5432, "loopback") as at_loopback,
        net.tcp_server("lan", LAN_HOST, 80, "lan") as at_lan,
        net.udp_server("agent", "127.0.0.1", 53, "loopback"),
        net.udp_server("lan", LAN_HOST, 53, "lan"),
    ):
        assert await net.greeting("visitor", VISITOR, PUBLIC, 5432) == "loopback:5432"
        assert await net.greeting("visitor", VISITOR, PUBLIC, 81) == "lan:80"
        with net.bound("visitor", socket.SOCK_DGRAM, VISITOR) as sock:
            assert await net.ask(sock, PUBLIC, 53) == "loopback:53"
            assert await net.ask(sock, PUBLIC, 54) == "lan:53"
    assert at_loopback == [SLOT_ADDRESS]
    assert at_lan == ["192.168.7.1"]  # masqueraded: the host's own default route leads elsewhere
    counters = await net.nft("gw").counters()
    assert {number: count.connections for number, count in counters.items()} == {1: 1, 2: 1, 3: 1, 4: 1}
    assert counters[3].packets == 2
    assert counters[1].bytes > 200


async def test_a_range_keeps_its_numbers_on_every_leg(net: Net) -> None:
    ports = Ports.of(30000, 30009)
    ranged = service(1, 0, 30000, ports=ports)
    await apply(net, gateway(ranged), agent({("tcp", ports): (LAN_HOST, 30000)}))

    async with net.tcp_server("lan", LAN_HOST, 30000, "lan"), net.tcp_server("lan", LAN_HOST, 30009, "lan"):
        assert await net.greeting("visitor", VISITOR, PUBLIC, 30000) == "lan:30000"
        assert await net.greeting("visitor", VISITOR, PUBLIC, 30009) == "lan:30009"


async def test_ipv6_goes_through_both_hops_and_its_allow_list(net: Net) -> None:
    sources = frozenset(map(ip_network, (f"{VISITOR6}/128", "10.0.0.0/8")))
    six = service(1, 5432, 20001, target=None, target6=AGENT6, sources=sources)
    ranged = Ports.of(30000, 30009)
    reconciler = await apply(
        net,
        gateway(six, service(2, 0, 30000, ports=ranged, target=None, target6=AGENT6)),
        agent({("tcp", Ports.of(20001)): ("fd00:9::1", 5432), ("tcp", ranged): ("fd00:9::1", 30000)}),
    )
    net.ip("agent", "addr add fd00:9::1/128 dev lo")

    async with (
        net.tcp_server("agent", "fd00:9::1", 5432, "six") as clients,
        net.tcp_server("agent", "fd00:9::1", 30009),
        net.connect("visitor", VISITOR6, PUBLIC6, 5432) as (reader, writer),
    ):
        assert await reader.readline() == b"six:5432\n"
        assert await net.silent("visitor", STRANGER6, PUBLIC6, 5432)
        assert await net.greeting("visitor", STRANGER6, PUBLIC6, 30009) == ":30009"
        report = await reconciler.change({1: gateway_elements(replace(six, target6=IPv6Address("fd00:1::99")))})
        await conntrack.flush_all(report.flush, netns=net.netns("gw"))
        writer.write(b"anybody?\n")
        with pytest.raises((TimeoutError, ConnectionError)):
            await asyncio.wait_for(reader.readexactly(9), SILENCE_S)
    assert clients == [SLOT_ADDRESS6]


async def test_a_visitor_outside_the_allow_list_never_reaches_the_agent(net: Net) -> None:
    closed = service(1, 5432, 20001, sources=frozenset({ip_network(f"{VISITOR}/32"), ip_network("2001:db8:1::/48")}))
    nobody = service(2, 5433, 20001, sources=frozenset())
    await apply(net, gateway(closed, nobody), agent(LOOPBACK))

    async with net.tcp_server("agent", "127.0.0.1", 5432, "loopback") as clients:
        assert await net.silent("visitor", STRANGER, PUBLIC, 5432)
        assert await net.silent("visitor", VISITOR, PUBLIC, 5433)
        assert all(count.packets == 0 for count in (await net.nft("agent").counters()).values())
        assert await net.greeting("visitor", VISITOR, PUBLIC, 5432) == "loopback:5432"
    assert clients == [SLOT_ADDRESS]
    assert net.dropped("gw", "choose") >= 2


async def test_a_door_leads_to_the_local_bind_and_the_bind_itself_is_closed(net: Net) -> None:
    await apply(net, gateway(doors={80: 8080}), agent({}))

    async with net.tcp_server("gw", EVERYWHERE, 8080, "door") as clients:
        assert await net.greeting("visitor", VISITOR, PUBLIC, 80) == "door:8080"
        assert await net.silent("visitor", VISITOR, PUBLIC, 8080)
        assert await net.greeting("gw", "127.0.0.1", "127.0.0.1", 8080) == "door:8080"
    assert clients == [VISITOR, "127.0.0.1"]


async def test_a_closed_service_leaves_the_hosts_own_one_on_the_same_port_to_the_host(net: Net) -> None:
    await apply(net, gateway(service(1, 5432, 20001, sources=frozenset())), agent({}))

    async with net.tcp_server("gw", EVERYWHERE, 5432, "local"):
        assert await net.greeting("gw", "127.0.0.1", "127.0.0.1", 5432) == "local:5432"
        assert await net.greeting("gw", PUBLIC, PUBLIC, 5432) == "local:5432"
        assert await net.silent("visitor", VISITOR, PUBLIC, 5432)


async def test_the_gateways_own_connections_get_the_slots_address(net: Net) -> None:
    await apply(net, gateway(), agent(LOOPBACK))

    async with net.tcp_server("agent", "127.0.0.1", 5432, "loopback") as clients:
        assert await net.greeting("gw", EVERYWHERE, str(AGENT), 20001) == "loopback:5432"
    assert clients == [SLOT_ADDRESS]


async def test_the_gateway_answers_an_agents_echo_and_nothing_else(net: Net) -> None:
    await apply(net, gateway(), agent({}))

    async with net.tcp_server("gw", EVERYWHERE, 22, "ssh"):
        ping = ["ip", "netns", "exec", net.netns("agent"), "ping", "-c1", "-W2", "-I", str(AGENT), SLOT_ADDRESS]
        assert (await asyncio.to_thread(subprocess.run, ping, check=False, capture_output=True)).returncode == 0
        assert await net.silent("agent", str(AGENT), PUBLIC, 22)
        assert net.dropped("gw", "from_tunnel") > 0
        assert await net.greeting("visitor", VISITOR, PUBLIC, 22) == "ssh:22"


async def test_agents_reach_neither_each_other_nor_visitors_through_the_gateway(net: Net) -> None:
    await apply(net, gateway(service(1, 53, 20001, proto="udp")), agent(LOOPBACK))
    await Reconciler(net.nft("agent")).remove()

    assert await net.silent("agent", str(AGENT), AGENT_B, 80)
    to_agent = net.dropped("gw", "out_of_tunnel")
    async with net.udp_server("visitor", VISITOR, 53) as reached:
        with net.bound("agent", socket.SOCK_DGRAM, str(AGENT)) as sock, pytest.raises(TimeoutError):
            await net.ask(sock, VISITOR, 53, within=SILENCE_S)

    assert 0 < to_agent < net.dropped("gw", "out_of_tunnel")
    assert reached == []


async def test_a_visitor_cannot_route_into_the_tunnel_around_the_translation(net: Net) -> None:
    await apply(net, gateway(service(1, 5432, 20001)), agent(LOOPBACK))

    async with net.tcp_server("agent", "127.0.0.1", 5432):
        assert await net.silent("visitor", VISITOR, str(AGENT), 20001)

    assert net.dropped("gw", "into_tunnel") > 0
    assert all(count.packets == 0 for count in (await net.nft("agent").counters()).values())


async def test_a_hostile_gateway_reaches_only_published_ports(net: Net) -> None:
    await apply(net, gateway(), agent(LOOPBACK))
    await Reconciler(net.nft("gw")).remove()
    for line in (
        f"addr add {SLOT_ADDRESS}/32 dev wg",
        "route add 192.168.7.0/24 dev wg",
        "addr add 10.1.0.8/32 dev wg",
    ):
        net.ip("gw", line)

    async with (
        net.tcp_server("agent", "127.0.0.1", 5432, "loopback"),
        net.tcp_server("agent", EVERYWHERE, 22, "ssh"),
        net.tcp_server("agent", str(AGENT), 9000, "own"),
        net.tcp_server("lan", LAN_HOST, 80, "lan"),
    ):
        assert await net.greeting("gw", SLOT_ADDRESS, str(AGENT), 20001) == "loopback:5432"
        assert await net.greeting("gw", SLOT_ADDRESS, str(AGENT), 9000) == "own:9000"
        assert await net.silent("gw", SLOT_ADDRESS, str(AGENT), 22)
        assert await net.silent("gw", SLOT_ADDRESS, "192.168.7.1", 22)
        assert net.dropped("agent", "from_tunnel") > 0
        assert await net.silent("gw", SLOT_ADDRESS, LAN_HOST, 80)
        assert net.dropped("agent", "to_site") > 0
        spoofed = net.dropped("agent", "spoofs", 1)
        assert await net.silent("gw", "10.1.0.8", str(AGENT), 20001)  # a slot that is no gateway
        assert net.dropped("agent", "spoofs", 1) > spoofed


async def test_a_packet_to_127_from_the_tunnel_is_dropped_before_anything_sees_it(net: Net) -> None:
    await apply(net, gateway(), agent(LOOPBACK))
    await Reconciler(net.nft("gw")).remove()

    net.ip("gw", f"addr add {SLOT_ADDRESS}/32 dev wg")

    async with net.udp_server("agent", "127.0.0.1", 53, "loopback") as clients:
        net.inside("gw", lambda: _send_raw("wg", SLOT_ADDRESS, "127.0.0.1", 53))
        with net.bound("gw", socket.SOCK_DGRAM, SLOT_ADDRESS) as sock:  # comes behind it on the same wire
            assert await net.ask(sock, str(AGENT), 20001) == "loopback:53"
    assert clients == [SLOT_ADDRESS]
    assert net.dropped("agent", "spoofs", 0) == 1


async def test_the_site_opens_nothing_into_the_tunnel(net: Net) -> None:
    await apply(net, gateway(), agent({}))
    net.ip("lan", "route add 10.1.0.0/24 via 192.168.7.1")

    assert await net.silent("lan", LAN_HOST, SLOT_ADDRESS, 80)

    assert net.dropped("agent", "from_site") > 0


async def test_a_udp_flow_moves_to_the_new_target_after_the_flush_and_other_flows_stay(net: Net) -> None:
    targets = {**LOOPBACK, ("udp", Ports.of(20002)): (LAN_HOST, 53)}
    moved = service(1, 53, 20001, proto="udp")
    reconciler = await apply(net, gateway(moved, service(2, 5432, 20001)), agent(targets))

    async with (
        net.udp_server("agent", "127.0.0.1", 53, "old"),
        net.udp_server("lan", LAN_HOST, 53, "new"),
        net.tcp_server("agent", "127.0.0.1", 5432),
        net.connect("visitor", VISITOR, PUBLIC, 5432) as (reader, writer),
    ):
        await reader.readline()
        with net.bound("visitor", socket.SOCK_DGRAM, VISITOR) as sock:
            assert await net.ask(sock, PUBLIC, 53) == "old:53"
            report = await reconciler.change({1: gateway_elements(replace(moved, agent_port=20002))})
            assert await net.ask(sock, PUBLIC, 53) == "old:53"  # conntrack remembers
            assert report.flush == {mark_of(1)}
            await conntrack.flush_all(report.flush, netns=net.netns("gw"))
            assert await net.ask(sock, PUBLIC, 53) == "new:53"
        writer.write(b"still here\n")
        assert await asyncio.wait_for(reader.readline(), 5) == b"still here\n"


@pytest.mark.parametrize("side", ["gw", "agent"])
async def test_what_is_removed_is_cut_at_once_even_without_a_flush(net: Net, side: str) -> None:
    await apply(net, gateway(service(1, 5432, 20001)), agent(LOOPBACK))

    async with (
        net.tcp_server("agent", "127.0.0.1", 5432),
        net.connect("visitor", VISITOR, PUBLIC, 5432) as (reader, writer),
    ):
        await reader.readline()
        desired = gateway_desired(gateway()) if side == "gw" else agent_desired(agent({}))
        report = await Reconciler(net.nft(side)).full(desired)
        writer.write(b"anybody?\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readline(), SILENCE_S)
    gone = {1} if side == "gw" else {target_number("tcp", 20001), target_number("udp", 20001)}
    assert report.flush == {mark_of(number) for number in gone}


async def test_restart_and_new_version_keep_an_established_connection(net: Net) -> None:
    gw, ag = gateway(service(1, 5432, 20001)), agent(LOOPBACK)
    await apply(net, gw, ag)

    async with (
        net.tcp_server("agent", "127.0.0.1", 5432),
        net.connect("visitor", VISITOR, PUBLIC, 5432) as (reader, writer),
    ):
        await reader.readline()
        adopted = await Reconciler(net.nft("gw")).full(gateway_desired(gw))
        renewed = await Reconciler(net.nft("gw")).full(gateway_desired(replace(gw, slot=9)))
        again = await Reconciler(net.nft("agent")).full(agent_desired(replace(ag, own=frozenset(), address6=None)))
        writer.write(b"still here\n")
        assert await asyncio.wait_for(reader.readline(), 5) == b"still here\n"

    assert (adopted.replaced, adopted.changed) == (False, 0)
    assert (renewed.replaced, again.replaced) == (True, True)
    assert (renewed.flush, again.flush) == (frozenset(), frozenset())


@pytest.mark.parametrize("without", ["gw", "agent"])
async def test_either_end_alone_makes_segments_of_both_directions_fit_into_the_tunnel(net: Net, without: str) -> None:
    await apply(net, gateway(service(1, 5432, 20001)), agent({("tcp", Ports.of(20001)): (LAN_HOST, 5432)}))
    net.flush_chain(without, "clamp")

    async with (
        net.tcp_server("lan", LAN_HOST, 5432),
        net.connect("visitor", VISITOR, PUBLIC, 5432) as (reader, writer),
    ):
        await reader.readline()
        visitors = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        assert max(visitors, *net.segments) <= 1420 - 40
        writer.write(b"x" * 50_000 + b"\n")
        assert len(await asyncio.wait_for(reader.readline(), 5)) == 50_001


def _send_raw(interface: str, source: str, to: str, port: int) -> None:
    """An IPv4 datagram with addresses that no honest stack would send this way."""
    payload = b"?"
    udp = (40000).to_bytes(2) + port.to_bytes(2) + (8 + len(payload)).to_bytes(2) + b"\0\0" + payload
    head = bytearray(b"\x45\0" + (20 + len(udp)).to_bytes(2) + b"\0\0\0\0\x40\x11\0\0")
    head += IPv4Address(source).packed + IPv4Address(to).packed
    total = sum(int.from_bytes(head[at : at + 2]) for at in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    head[10:12] = (~(total + (total >> 16)) & 0xFFFF).to_bytes(2)
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as raw:
        raw.sendto(bytes(head) + udp, (interface, 0x0800, 0, 0, bytes.fromhex("020000000001")))
