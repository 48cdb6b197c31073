"""Which steps lead from one state of an interface to another. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from kakuremichi.dataplane.links.desired import IPInterface, LinkState
from kakuremichi.model.addresses import IPNetwork


@dataclass(frozen=True, slots=True)
class SetAlias:
    alias: str


@dataclass(frozen=True, slots=True)
class SetMtu:
    mtu: int


@dataclass(frozen=True, slots=True)
class SetUp:
    up: bool


@dataclass(frozen=True, slots=True)
class AddAddress:
    address: IPInterface


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    address: IPInterface


@dataclass(frozen=True, slots=True)
class AddRoute:
    network: IPNetwork


@dataclass(frozen=True, slots=True)
class RemoveRoute:
    network: IPNetwork


Step = SetAlias | SetMtu | SetUp | AddAddress | RemoveAddress | AddRoute | RemoveRoute
Place = TypeVar("Place", IPInterface, IPNetwork)


def steps_between(actual: LinkState, desired: LinkState) -> tuple[Step, ...]:
    return (*_link_steps(actual, desired), *_table_steps(actual, desired))


def _link_steps(actual: LinkState, desired: LinkState) -> Iterator[Step]:
    # The alias first: from then on a crash leaves an interface that is known to be ours.
    if actual.alias != desired.alias:
        yield SetAlias(desired.alias)
    if actual.mtu != desired.mtu:
        yield SetMtu(desired.mtu)
    # Up before the tables: the kernel refuses a route into an interface that is down.
    if actual.up != desired.up:
        yield SetUp(desired.up)


def _table_steps(actual: LinkState, desired: LinkState) -> Iterator[Step]:
    yield from map(AddAddress, in_order(desired.addresses - actual.addresses))
    # The kernel refuses any route into an interface that is down, and has dropped those that were there.
    if desired.up:
        yield from map(AddRoute, in_order(desired.routes - actual.routes))
        yield from map(RemoveRoute, in_order(actual.routes - desired.routes))
    yield from map(RemoveAddress, in_order(actual.addresses - desired.addresses))


def in_order(places: Iterable[Place]) -> list[Place]:
    """Sorted, IPv4 first: `ipaddress` refuses to compare the two families."""
    return sorted(places, key=lambda place: (place.version, place))
