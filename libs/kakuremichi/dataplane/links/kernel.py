"""The kernel's side of one interface. Addresses and routes go in batches, the interface itself through pyroute2."""

import asyncio
import errno
from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import groupby
from typing import Self

from kakuremichi.dataplane.links.desired import ROUTE_PROTOCOL, IPInterface, LinkState
from kakuremichi.dataplane.links.device import LinkError, Outcome
from kakuremichi.dataplane.links.diff import (
    AddAddress,
    AddRoute,
    RemoveAddress,
    RemoveRoute,
    SetAlias,
    SetMtu,
    SetUp,
    Step,
)
from kakuremichi.dataplane.links.interfaces import Interface, change_interface, find_interface
from kakuremichi.dataplane.links.messages import (
    FAMILIES,
    RTM_GETADDR,
    RTM_GETROUTE,
    SCOPE_LINK,
    TABLE_LOCAL,
    TABLE_MAIN,
    TableStep,
    dump_addresses,
    dump_routes,
    parse_address,
    parse_route,
    request_for,
)
from kakuremichi.dataplane.links.netlink import NETLINK_ROUTE, Answer, NetlinkError, NetlinkSocket
from kakuremichi.model.addresses import IPNetwork

_SLICE = 2000  # rows parsed before the loop gets a turn: about 10 ms
_OUR_TABLES = {(ROUTE_PROTOCOL, TABLE_MAIN), (ROUTE_PROTOCOL, TABLE_LOCAL)}
_ALREADY_GONE = {RemoveAddress: {errno.EADDRNOTAVAIL}, RemoveRoute: {errno.ESRCH, errno.ENOENT}}


class KernelLink:
    """One interface of this network namespace. Use as an async context manager or call `close`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._netlink = NetlinkSocket(NETLINK_ROUTE)
        self._index = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._netlink.close()

    async def read(self) -> LinkState:
        interface = await self._find()
        try:
            addresses = frozenset([row async for row in self._addresses()])
            routes = frozenset([row async for row in self._routes()])
        except NetlinkError as error:
            raise LinkError(f"interface {self.name}: {error.strerror}") from error
        return LinkState(interface.alias, interface.up, interface.mtu, addresses, routes)

    async def apply(self, steps: Sequence[Step]) -> tuple[Outcome, ...]:
        outcomes: list[Outcome] = []
        for of_tables, run in groupby(steps, key=lambda step: isinstance(step, TableStep)):
            if of_tables:
                outcomes += await self._apply_tables([step for step in run if isinstance(step, TableStep)])
            else:
                outcomes += [await self._apply_link(step) for step in run]
        return tuple(outcomes)

    async def _find(self) -> Interface:
        interface = await find_interface(self.name)
        if interface is None:
            raise LinkError(f"interface {self.name}: there is none of that name")
        self._index = interface.index
        return interface

    async def _addresses(self) -> AsyncIterator[IPInterface]:
        for family in FAMILIES:
            async for answer in _sliced(await self._netlink.dump(RTM_GETADDR, dump_addresses(family, self._index))):
                row = parse_address(answer.body)
                if row is not None and not (row.address.version == 6 and row.scope == SCOPE_LINK):
                    yield row.address

    async def _routes(self) -> AsyncIterator[IPNetwork]:
        for family in FAMILIES:
            body = dump_routes(family, protocol=ROUTE_PROTOCOL, index=self._index)
            async for answer in _sliced(await self._netlink.dump(RTM_GETROUTE, body)):
                row = parse_route(answer.body)
                if row is not None and (row.protocol, row.table) in _OUR_TABLES:
                    yield row.network

    async def _apply_link(self, step: Step) -> Outcome:
        try:
            match step:
                case SetAlias(alias):
                    await change_interface(self.name, ifalias=alias)
                case SetMtu(mtu):
                    await change_interface(self.name, mtu=mtu)
                case SetUp(up):
                    await change_interface(self.name, state="up" if up else "down")
        except LinkError as error:
            return Outcome(step, str(error))
        return Outcome(step)

    async def _apply_tables(self, steps: Sequence[TableStep]) -> list[Outcome]:
        results = await self._send(steps)
        # Made anew (wireguard-go was restarted) the interface has another index: look it up and try once more.
        if any(result is not None and result.errno == errno.ENODEV for result in results):
            try:
                await self._find()
            except LinkError as error:
                return [Outcome(step, str(error)) for step in steps]
            results = await self._send(steps)
        ours = frozenset[IPNetwork]()
        if any(isinstance(step, AddRoute) and _exists(result) for step, result in zip(steps, results, strict=True)):
            ours = frozenset([row async for row in self._routes()])
        return [Outcome(step, self._sentence(step, result, ours)) for step, result in zip(steps, results, strict=True)]

    async def _send(self, steps: Sequence[TableStep]) -> list[NetlinkError | None]:
        if not self._index:
            interface = await find_interface(self.name)
            self._index = interface.index if interface else 0
        if not self._index:
            return [NetlinkError(errno.ENODEV, "no such device")] * len(steps)
        return await self._netlink.send([request_for(step, self._index) for step in steps])

    def _sentence(self, step: TableStep, error: NetlinkError | None, ours: frozenset[IPNetwork]) -> str | None:
        """What went wrong, or None. A step that finds its work done already has succeeded."""
        if error is None or error.errno in _ALREADY_GONE.get(type(step), ()):
            return None
        match step:
            case AddAddress(address) | RemoveAddress(address):
                return None if _exists(error) else f"address {address} on {self.name}: {error.strerror}"
            case AddRoute(network) if _exists(error):
                stranger = f"route {network}: there is one already that is not ours; remove it or choose another subnet"
                return None if network in ours else stranger
            case AddRoute(network) | RemoveRoute(network):
                return f"route {network} into {self.name}: {error.strerror}"


def _exists(error: NetlinkError | None) -> bool:
    return error is not None and error.errno == errno.EEXIST


async def _sliced(answers: Iterable[Answer]) -> AsyncIterator[Answer]:
    for number, answer in enumerate(answers, 1):
        yield answer
        if number % _SLICE == 0:
            await asyncio.sleep(0)
