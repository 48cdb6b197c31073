"""Which way packets go on this host, as far as firewalls ask: interfaces of the default routes, and who is local."""

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from kakuremichi.dataplane.foreign.packet import Interface
from kakuremichi.dataplane.links.desired import ROUTE_PROTOCOL
from kakuremichi.dataplane.links.messages import (
    FAMILIES,
    RTM_GETROUTE,
    TABLE_MAIN,
    TYPE_UNICAST,
    RouteRow,
    dump_routes,
    parse_route,
)
from kakuremichi.dataplane.links.netlink import NETLINK_ROUTE, NetlinkSocket
from kakuremichi.model.addresses import IPAddress

_TABLE_LOCAL, _TYPE_LOCAL = 255, 2
_SLICE = 500


@dataclass(frozen=True)
class Host:
    """Routes that are not ours, and the names of interfaces by index."""

    routes: tuple[RouteRow, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)

    def interface(self, index: int | None) -> Interface | None:
        return Interface(self.names[index], index) if index is not None and index in self.names else None

    def named(self, name: str) -> Interface | None:
        return next((Interface(name, index) for index, given in self.names.items() if given == name), None)

    def uplinks(self, version: int) -> tuple[Interface, ...]:
        """Where strangers come in."""
        found = {
            self.interface(row.index)
            for row in self._unicast()
            if row.network.version == version and row.network.prefixlen == 0
        }
        return tuple(sorted((each for each in found if each), key=lambda each: each.index))

    def is_local(self, address: IPAddress) -> bool:
        rows = (row for row in self.routes if row.table == _TABLE_LOCAL and row.kind == _TYPE_LOCAL)
        return address.is_loopback or any(_leads_to(row, address) for row in rows)

    def way_to(self, address: IPAddress) -> Interface | None:
        """The interface of the longest prefix; None if nobody can tell (several at once, policy routing)."""
        rows = [row for row in self._unicast() if _leads_to(row, address)]
        return self.interface(max(rows, key=lambda row: row.network.prefixlen).index) if rows else None

    def _unicast(self) -> list[RouteRow]:
        return [row for row in self.routes if row.table == TABLE_MAIN and row.kind == TYPE_UNICAST]


async def read_host() -> Host:
    """Of the network namespace that this thread is in. Raises NetlinkError."""
    rows: list[RouteRow] = []
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        for family in FAMILIES:
            for count, answer in enumerate(await netlink.dump(RTM_GETROUTE, dump_routes(family)), 1):
                row = parse_route(answer.body)
                if row is not None and row.protocol != ROUTE_PROTOCOL:
                    rows.append(row)
                if count % _SLICE == 0:
                    await asyncio.sleep(0)
    return Host(tuple(rows), dict(socket.if_nameindex()))


def _leads_to(row: RouteRow, address: IPAddress) -> bool:
    return row.network.version == address.version and address in row.network
