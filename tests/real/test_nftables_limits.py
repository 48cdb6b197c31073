"""Limits, guards and carried services with real packets through the tables of a gateway and an agent."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network

import pytest

from kakuremichi.dataplane.nftables import conntrack
from kakuremichi.dataplane.nftables.elements import Ports
from kakuremichi.dataplane.nftables.gateway import (
    TCP_DOOR,
    gateway_desired,
    gateway_elements,
)
from kakuremichi.dataplane.nftables.guards import Guards
from kakuremichi.dataplane.nftables.limits import Policy
from kakuremichi.dataplane.nftables.marks import mark_of
from kakuremichi.dataplane.nftables.reconcile import Reconciler
from kakuremichi.model.options import Limits
from support.nftables_net import (
    AGENT,
    EVERYWHERE,
    PUBLIC,
    PUBLIC6,
    SILENCE_S,
    STRANGER,
    STRANGER6,
    VISITOR,
    VISITOR6,
    Net,
)
from support.nftables_pair import TCP as EITHER
from support.nftables_pair import UDP, apply, table_of

pytestmark = pytest.mark.root

TCP = replace(EITHER, carried=frozenset())
CARRIED = replace(EITHER, number=3, carried=frozenset({4, 6}))
LINE = b"x" * 999 + b"\n"
BULK = 700 * len(LINE)
SLOW = 200_000  # bytes a second
LEAST_S = (BULK - SLOW - 70_000) / SLOW  # a second's worth and one large packet may come at once


@asynccontextmanager
async def opened(net: Net, source: str, count: int) -> AsyncIterator[None]:
    """Connections to service 1, all greeted and kept open."""
    to = PUBLIC6 if ":" in source else PUBLIC
    async with AsyncExitStack() as stack:
        for _ in range(count):
            reader, _ = await stack.enter_async_context(net.connect("visitor", source, to, 5432))
            assert await asyncio.wait_for(reader.readline(), 5)
        yield


async def answered(net: Net, source: str, port: int, flows: int) -> int:
    """How many of so many UDP flows, begun at once, got an answer."""

    async def ask() -> bool:
        with net.bound("visitor", socket.SOCK_DGRAM, source) as sock:
            try:
                return bool(await net.ask(sock, PUBLIC, port, within=2))
            except TimeoutError:
                return False

    return sum(await asyncio.gather(*(ask() for _ in range(flows))))


async def seconds_for_bulk(net: Net, host: str, source: str, to: str, port: int) -> float:
    async with net.connect(host, source, to, port) as (reader, writer):
        await reader.readline()
        began = time.monotonic()
        writer.write(LINE * (BULK // len(LINE)))
        for _ in range(BULK // len(LINE)):
            assert await asyncio.wait_for(reader.readline(), 30) == LINE
        return time.monotonic() - began


async def test_new_flows_beyond_the_rate_are_dropped_and_counted_and_other_services_are_free(net: Net) -> None:
    limited = replace(UDP, limits=Limits(rate=1))
    await apply(net, limited, replace(UDP, number=4, ports=Ports.of(54)))

    async with net.udp_server("agent", "127.0.0.1", 53, "udp"):
        few = await answered(net, VISITOR, 53, 40)
        all_of_them = await answered(net, VISITOR, 54, 40)

    counters = await net.nft("gw").counters()
    assert 0 < few < 40
    assert counters[2].refused == 40 - few
    assert (all_of_them, counters[4].refused) == (40, 0)


async def test_a_clients_rate_is_his_own(net: Net) -> None:
    await apply(net, replace(UDP, limits=Limits(rate_per_client=1)))

    async with net.udp_server("agent", "127.0.0.1", 53, "udp"):
        few = await answered(net, VISITOR, 53, 40)
        assert await answered(net, STRANGER, 53, 1) == 1

    assert 0 < few < 40


async def test_more_open_connections_than_allowed_are_reset_until_one_ends(net: Net) -> None:
    await apply(net, replace(TCP, limits=Limits(connections=2)))

    async with net.tcp_server("agent", "127.0.0.1", 5432, "tcp"):
        async with opened(net, VISITOR, 2):
            with pytest.raises(ConnectionRefusedError):
                await net.greeting("visitor", STRANGER, PUBLIC, 5432)
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await net.greeting("visitor", STRANGER, PUBLIC, 5432) == "tcp:5432"
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.1)
    assert (await net.nft("gw").counters())[1].refused > 0


async def test_a_clients_open_connections_leave_room_for_others(net: Net) -> None:
    await apply(net, replace(TCP, limits=Limits(connections_per_client=2)))

    async with net.tcp_server("agent", "127.0.0.1", 5432, "tcp"), opened(net, VISITOR, 2):
        with pytest.raises(ConnectionRefusedError):
            await net.greeting("visitor", VISITOR, PUBLIC, 5432)
        assert await net.greeting("visitor", STRANGER, PUBLIC, 5432) == "tcp:5432"


async def test_one_ipv6_network_of_64_bits_is_one_client(net: Net) -> None:
    await apply(net, replace(EITHER, limits=Limits(connections_per_client=2)))

    async with net.tcp_server("gw", "::", TCP_DOOR, "haproxy", transparent=True), opened(net, VISITOR6, 2):
        with pytest.raises(ConnectionRefusedError):
            await net.greeting("visitor", STRANGER6, PUBLIC6, 5432)


async def test_a_udp_flow_too_many_is_dropped(net: Net) -> None:
    await apply(net, replace(UDP, limits=Limits(connections=3)))

    async with net.udp_server("agent", "127.0.0.1", 53, "udp"):
        assert await answered(net, VISITOR, 53, 10) == 3


async def test_bytes_towards_visitors_come_no_faster_than_said(net: Net) -> None:
    await apply(net, replace(TCP, limits=Limits(bandwidth=SLOW)))

    async with net.tcp_server("agent", "127.0.0.1", 5432, "tcp"):
        assert await seconds_for_bulk(net, "visitor", VISITOR, PUBLIC, 5432) > LEAST_S


async def test_the_gateways_own_flows_from_an_agents_port_can_be_shaped(net: Net) -> None:
    await apply(net, shaped={(AGENT, 20001): SLOW})

    async with net.tcp_server("agent", "127.0.0.1", 5432, "tcp"):
        assert await seconds_for_bulk(net, "gw", EVERYWHERE, str(AGENT), 20001) > LEAST_S


async def test_bytes_to_visitors_of_a_carried_service_are_limited_too(net: Net) -> None:
    await apply(net, replace(CARRIED, limits=Limits(bandwidth=SLOW)))

    async with net.tcp_server("gw", EVERYWHERE, TCP_DOOR, "haproxy"):
        assert await seconds_for_bulk(net, "visitor", VISITOR, PUBLIC, 5432) > LEAST_S


async def test_a_carried_service_leads_to_haproxy_in_both_families_within_its_allow_list(net: Net) -> None:
    sources = frozenset({ip_network(f"{VISITOR}/32"), ip_network(f"{VISITOR6}/128")})
    await apply(net, replace(CARRIED, sources=sources))

    async with net.tcp_server("gw", "::", TCP_DOOR, "haproxy", transparent=True) as clients:
        assert await net.greeting("visitor", VISITOR, PUBLIC, 5432) == "haproxy:15080"
        assert await net.greeting("visitor", VISITOR6, PUBLIC6, 5432) == "haproxy:15080"
        assert await net.silent("visitor", STRANGER, PUBLIC, 5432)
        assert await net.silent("visitor", STRANGER6, PUBLIC6, 5432)
        assert await net.silent("visitor", VISITOR, PUBLIC, TCP_DOOR)  # nobody comes past the allow-list
        assert await net.silent("visitor", VISITOR6, PUBLIC6, TCP_DOOR)
    counters = (await net.nft("gw").counters())[3]
    assert [client.removeprefix("::ffff:") for client in clients] == [VISITOR, VISITOR6]
    assert counters.connections == 2
    assert counters.packets > 10  # both directions: each had three packets of its own at least
    assert counters.bytes > 500


async def test_a_service_may_send_one_family_to_its_target_and_the_other_to_haproxy(net: Net) -> None:
    reconciler = await apply(net, EITHER)

    async with (
        net.tcp_server("agent", "127.0.0.1", 5432, "target"),
        net.tcp_server("gw", "::", TCP_DOOR, "haproxy", transparent=True),
    ):
        assert await net.greeting("visitor", VISITOR, PUBLIC, 5432) == "target:5432"
        assert await net.greeting("visitor", VISITOR6, PUBLIC6, 5432) == "haproxy:15080"
        report = await reconciler.change({1: gateway_elements(replace(TCP, carried=frozenset({4, 6})))})
        assert report.flush == {mark_of(1)}
        assert await net.greeting("visitor", VISITOR, PUBLIC, 5432) == "haproxy:15080"


async def test_guards_hold_one_source_over_all_public_ports_and_leave_others_alone(net: Net) -> None:
    await apply(
        net,
        replace(TCP, ports=Ports.of(5433)),
        guards=Guards(rate=0, connections=3),
        listeners=frozenset({("tcp", 5432)}),
    )

    async with (
        net.tcp_server("gw", EVERYWHERE, 5432, "web"),
        net.tcp_server("agent", "127.0.0.1", 5432, "target"),
        opened(net, VISITOR, 3),
    ):
        assert await net.silent("visitor", VISITOR, PUBLIC, 5432)
        assert await net.silent("visitor", VISITOR, PUBLIC, 5433)
        assert await net.greeting("visitor", STRANGER, PUBLIC, 5433) == "target:5432"
    assert net.dropped("gw", "guard") >= 2


async def test_a_source_that_comes_too_fast_is_dropped_by_the_guard(net: Net) -> None:
    await apply(net, UDP, guards=Guards(rate=1, connections=0))

    async with net.udp_server("agent", "127.0.0.1", 53, "udp"):
        few = await answered(net, VISITOR, 53, 40)
        assert await answered(net, STRANGER, 53, 1) == 1

    assert 0 < few < 40
    assert net.dropped("gw", "guard") == 40 - few


async def test_a_flood_of_a_program_of_this_host_is_dropped_before_it_is_tracked(net: Net) -> None:
    await apply(net, UDP, guards=Guards(rate=1), listeners=frozenset({("tcp", 5432)}))

    async with net.tcp_server("gw", EVERYWHERE, 5432, "web"):
        assert await net.greeting("visitor", VISITOR, PUBLIC, 5432) == "web:5432"
        assert await net.silent("visitor", VISITOR, PUBLIC, 5432)
        assert await net.greeting("visitor", STRANGER, PUBLIC, 5432) == "web:5432"
    assert net.dropped("gw", "syn_rate") > 0
    assert net.dropped("gw", "guard") == 0


async def test_limits_change_without_ending_a_flow_and_their_chains_go_with_the_last_that_names_them(net: Net) -> None:
    reconciler = await apply(net, replace(TCP, limits=Limits(rate_per_client=7, connections_per_client=8, rate=9)))

    async with net.tcp_server("agent", "127.0.0.1", 5432), opened(net, VISITOR, 1):
        changed = replace(TCP, limits=Limits(connections_per_client=5, connections=9, bandwidth=10**9))
        report = await reconciler.change({1: gateway_elements(changed)})
        assert (report.refused, report.flush) == ((), frozenset())
        whole = await Reconciler(net.nft("gw")).full(gateway_desired(table_of(changed)))

    assert (whole.replaced, whole.changed) == (False, 0)
    actual = await net.nft("gw").read()
    assert actual is not None
    assert set(actual.policies) == {Policy("client_conns", 5)}


async def test_who_is_no_longer_on_the_allow_list_is_cut_and_who_is_goes_on(net: Net) -> None:
    both = replace(TCP, sources=frozenset({ip_network(f"{VISITOR}/32"), ip_network(f"{STRANGER}/32")}))
    reconciler = await apply(net, both)

    async with (
        net.tcp_server("agent", "127.0.0.1", 5432),
        net.connect("visitor", VISITOR, PUBLIC, 5432) as (stays, his),
        net.connect("visitor", STRANGER, PUBLIC, 5432) as (cut, hers),
    ):
        await stays.readline(), await cut.readline()
        report = await reconciler.change({1: gateway_elements(replace(both, sources=frozenset({ip_network(VISITOR)})))})
        await conntrack.flush_all(report.flush, netns=net.netns("gw"))
        hers.write(b"anybody?\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cut.readline(), SILENCE_S)
        his.write(b"still here\n")
        assert await asyncio.wait_for(stays.readline(), 5) == b"still here\n"
