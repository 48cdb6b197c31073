"""Which networks this host uses: what a node reports at enrolment and whenever it changes."""

import asyncio
import errno
from collections.abc import AsyncIterator, Iterable, Iterator

from kakuremichi.dataplane.links.desired import ROUTE_PROTOCOL
from kakuremichi.dataplane.links.messages import (
    FAMILIES,
    RTM_DELROUTE,
    RTM_GETADDR,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    TABLE_MAIN,
    TYPE_UNICAST,
    AddressRow,
    RouteRow,
    dump_addresses,
    dump_routes,
    parse_address,
    parse_route,
)
from kakuremichi.dataplane.links.netlink import NETLINK_ROUTE, Answer, NetlinkSocket
from kakuremichi.model.addresses import IPNetwork

# RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
_SLICE = 500


async def used_networks(ignore: Iterable[int] = ()) -> tuple[IPNetwork, ...]:
    """The networks of this host's addresses and routes, without ours, default routes, loopback and link-local ones.

    `ignore` holds the indices of our own interfaces. Sorted, IPv4 first; one that lies inside another is left out.
    """
    skipped = frozenset(ignore)
    addresses: list[AddressRow] = []
    routes: list[RouteRow] = []
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        for family in FAMILIES:
            answers = await netlink.dump(RTM_GETADDR, dump_addresses(family))
            addresses += [row for answer in answers if (row := parse_address(answer.body)) is not None]
            routes += [row async for row in _parsed(await netlink.dump(RTM_GETROUTE, dump_routes(family)))]
    return tuple(_without_contained({*_of_addresses(addresses, skipped), *_of_routes(routes, skipped)}))


async def changes(settle_s: float = 0.5) -> AsyncIterator[None]:
    """Yields once after each burst of changes to links, addresses or routes (ours do not count). Never ends by itself.

    A burst ends `settle_s` after its first message, so that a flapping route cannot delay the news for ever.
    """
    with NetlinkSocket(NETLINK_ROUTE, _GROUPS) as netlink:
        while True:
            if await _changed(netlink):
                await asyncio.sleep(settle_s)
                netlink.discard()
                yield


async def _changed(netlink: NetlinkSocket) -> bool:
    try:
        return any(not _is_our_route(answer) for answer in await netlink.receive())
    except OSError as error:
        if error.errno == errno.ENOBUFS:
            return True  # messages were lost: something has changed
        raise


def _is_our_route(answer: Answer) -> bool:
    if answer.kind not in (RTM_NEWROUTE, RTM_DELROUTE):
        return False
    row = parse_route(answer.body)
    return row is not None and row.protocol == ROUTE_PROTOCOL


async def _parsed(answers: Iterable[Answer]) -> AsyncIterator[RouteRow]:
    for number, answer in enumerate(answers, 1):
        row = parse_route(answer.body)
        if row is not None:
            yield row
        if number % _SLICE == 0:
            await asyncio.sleep(0)


def _of_addresses(rows: Iterable[AddressRow], skipped: frozenset[int]) -> Iterator[IPNetwork]:
    return (row.address.network for row in rows if row.index not in skipped and _is_of_use(row.address.network))


def _of_routes(rows: Iterable[RouteRow], skipped: frozenset[int]) -> Iterator[IPNetwork]:
    for row in rows:
        foreign = row.protocol != ROUTE_PROTOCOL and row.index not in skipped
        if foreign and row.table == TABLE_MAIN and row.kind == TYPE_UNICAST and _is_of_use(row.network):
            yield row.network


def _is_of_use(network: IPNetwork) -> bool:
    return network.prefixlen > 0 and not (network.is_loopback or network.is_link_local or network.is_multicast)


def _without_contained(networks: Iterable[IPNetwork]) -> Iterator[IPNetwork]:
    last: IPNetwork | None = None
    # In this order a network comes right after those that contain it.
    for network in sorted(networks, key=lambda one: (one.version, int(one.network_address), one.prefixlen)):
        if (
            last is None
            or last.version != network.version
            or int(network.broadcast_address) > int(last.broadcast_address)
        ):
            last = network
            yield network
