"""What nftables and the kernel's table of flows count of a gateway's services: both directions, and what is open."""

import asyncio
import socket
from collections.abc import Mapping
from functools import partial

import pytest

from kakuremichi.dataplane.links.netlink import NETLINK_NETFILTER, NetlinkSocket
from kakuremichi.dataplane.nftables.open_flows import open_flows
from support.nftables_net import PUBLIC, VISITOR, Net
from support.nftables_pair import TCP, UDP, apply

pytestmark = pytest.mark.root


async def opened(net: Net, wanted: Mapping[int, int]) -> None:
    """Wait until so many flows are open: the last packets of a connection come when they come."""
    connect = partial(net.inside, "gw", lambda: NetlinkSocket(NETLINK_NETFILTER))
    async with asyncio.timeout(20):
        while await open_flows(connect) != wanted:  # noqa: ASYNC110  # the kernel tells nobody
            await asyncio.sleep(0.02)


async def test_what_goes_to_visitors_is_counted_beside_what_comes_from_them(net: Net) -> None:
    await apply(net, TCP, UDP)
    async with net.udp_server("agent", "127.0.0.1", 53, "a longer name than the question"):
        with net.bound("visitor", socket.SOCK_DGRAM, VISITOR) as sock:
            for _ in range(3):
                answer = await net.ask(sock, PUBLIC, 53)

    counted = (await net.nft("gw").counters())[2]
    assert (counted.packets, counted.packets_out, counted.connections) == (6, 3, 1)
    assert counted.bytes_out == 3 * (28 + len(answer))
    assert 0 < counted.bytes - counted.bytes_out < counted.bytes_out


async def test_connections_are_open_until_both_sides_have_closed_them(net: Net) -> None:
    await apply(net, TCP, UDP)
    await opened(net, {})
    async with net.tcp_server("agent", "127.0.0.1", 5432, "tcp"), net.udp_server("agent", "127.0.0.1", 53, "udp"):
        async with net.connect("visitor", VISITOR, PUBLIC, 5432) as (reader, _):
            await reader.readline()
            with net.bound("visitor", socket.SOCK_DGRAM, VISITOR) as sock:
                await net.ask(sock, PUBLIC, 53)
            await opened(net, {1: 1, 2: 1})
        await opened(net, {2: 1})
        for _ in range(3):
            await net.greeting("visitor", VISITOR, PUBLIC, 5432)
        await opened(net, {2: 1})
