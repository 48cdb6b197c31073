"""Make the kernel's table match what is wanted: read, compare, write, remember.

A change is one batch and looks only at the items that changed, so its cost does not grow with their number.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from kakuremichi.dataplane.nftables.device import Table
from kakuremichi.dataplane.nftables.diff import Group, claim, groups_between, places_of, stale_flows
from kakuremichi.dataplane.nftables.elements import Data, Desired, Element, Elements, Place, Refusal, owner_of
from kakuremichi.dataplane.nftables.errors import ForeignTableError, RefusedError
from kakuremichi.dataplane.nftables.halving import apply_groups
from kakuremichi.dataplane.nftables.limits import Policy, policies_of
from kakuremichi.dataplane.nftables.reader import Actual
from kakuremichi.dataplane.nftables.render import DeleteTable, PutSkeleton, RemovePolicies


@dataclass(frozen=True, slots=True)
class Report:
    """What a pass did. `flush`: conntrack marks of flows that must not go on; the caller decides when they end."""

    replaced: bool = False  # the skeleton was put anew, with all elements
    changed: int = 0  # elements added and removed
    refused: tuple[Refusal, ...] = ()
    flush: frozenset[int] = frozenset()


class Reconciler:
    """One table. One caller at a time.

    Refused items keep what they have in the kernel: what serves visitors is not taken away for a mistake in its
    successor. After a :class:`DeviceError` the memory is dropped, and the next pass reads the table again.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._desired: Desired | None = None  # as of the last full comparison, but for its items
        self._items: dict[int, Elements] = {}  # what is desired now
        self._claims: dict[Place, int] = {}
        self._held: _Held | None = None

    async def full(self, desired: Desired) -> Report:
        """Compare everything with what is really there. An intact skeleton of the same version is adopted.

        Replacing the table interrupts no flow: it is one transaction, and translations live in conntrack.
        """
        self._held = None
        actual = await self._read()
        # For 10,000 services a comparison takes longer than an event loop should be held up.
        claims, accepted, groups, refused = await asyncio.to_thread(_compare, actual, desired)
        self._desired, self._items, self._claims = replace(desired, items={}), dict(accepted), claims
        adopted = actual is not None and actual.has(desired.skeleton)
        held = _Held(actual.elements if adopted and actual else {})
        flush = None
        if not adopted:
            flush = frozenset().union(*(stale_flows(group) for group in groups))
            groups = await asyncio.to_thread(groups_between, {}, accepted)
        first = None if adopted else PutSkeleton(desired.skeleton)
        report = await self._perform(held, groups, first)
        if adopted and actual:
            await self._sweep(actual.policies, accepted.values())
        return replace(report, refused=(*refused, *report.refused), flush=report.flush if flush is None else flush)

    async def _sweep(self, policies: Iterable[Policy], wanted: Iterable[Elements]) -> None:
        """Chains of limits per visitor that nobody has any more. Refused if one is in use after all: the next time."""
        places = ((element.container, element.data) for elements in wanted for element in elements)
        stale = sorted(frozenset(policies) - policies_of(places))
        if stale:
            with suppress(RefusedError):
                await self._table.apply((RemovePolicies(tuple(stale)),))

    async def change(self, items: Mapping[int, Elements]) -> Report:
        """Set each owner's elements to these; the empty set removes it. Needs a :meth:`full` before it."""
        if self._desired is None:
            raise RuntimeError("nftables: a change came before the first full comparison")
        if self._held is None:  # the last pass ended in doubt
            return await self.full(replace(self._desired, items={**self._items, **items}))
        accepted, refused = self._claim(items)
        held = self._held
        groups = groups_between(held.around(accepted), accepted)
        for owner, elements in accepted.items():
            if elements:
                self._items[owner] = elements
            else:
                self._items.pop(owner, None)
        report = await self._perform(held, groups, None)
        return replace(report, refused=(*refused, *report.refused))

    async def remove(self) -> None:
        """Delete the table if it is there and ours."""
        self._held = None
        if await self._read() is not None:
            await self._table.apply((DeleteTable(),))

    async def _read(self) -> Actual | None:
        actual = await self._table.read()
        if actual is not None and actual.foreign:
            raise ForeignTableError("nftables: a table of our name holds only rules of others; rename or delete it")
        return actual

    def _claim(self, items: Mapping[int, Elements]) -> tuple[dict[int, Elements], tuple[Refusal, ...]]:
        former = {owner: self._items.get(owner, ()) for owner in items}
        for elements in former.values():
            for place in places_of(elements):
                self._claims.pop(place, None)
        accepted, refused = claim(self._claims, items)
        for owner in items.keys() - accepted.keys():
            for place in places_of(former[owner]):
                self._claims.setdefault(place, owner)
        return accepted, refused

    async def _perform(self, held: "_Held", groups: Sequence[Group], first: PutSkeleton | None) -> Report:
        done: list[Group] = []

        def on_applied(part: Sequence[Group]) -> None:
            held.take(part)
            done.extend(part)

        self._held = None  # in doubt while a batch is under way: it may be cancelled or lost
        refused = await apply_groups(self._table, groups, on_applied, first=first)
        self._held = held
        return Report(
            replaced=first is not None,
            changed=sum(group.size for group in done),
            refused=refused,
            flush=frozenset().union(*(stale_flows(group) for group in done)),
        )


class _Held:
    """What we know to be in the kernel, found by place, by owner and, for ranges, by port."""

    def __init__(self, elements: Mapping[Place, Data]) -> None:
        self._data: dict[Place, Data] = {}
        self._places: dict[int, set[Place]] = {}
        self._ranges: dict[Place, Place] = {}
        for place, data in elements.items():
            self._add(Element(*place, data))

    def around(self, items: Mapping[int, Elements]) -> dict[Place, Data]:
        """What these owners have, and what stands in the places they want."""
        places = {place for owner in items for place in self._places.get(owner, ())}
        for elements in items.values():
            wanted = places_of(elements)
            places |= {element.place for element in elements} | wanted
            places |= {self._ranges[place] for place in wanted & self._ranges.keys()}
        return {place: self._data[place] for place in places if place in self._data}

    def take(self, groups: Sequence[Group]) -> None:
        for group in groups:
            for element in group.remove:
                self._remove(element)
        for group in groups:
            for element in group.add:
                self._add(element)

    def _add(self, element: Element) -> None:
        self._data[element.place] = element.data
        self._places.setdefault(owner_of(element), set()).add(element.place)
        if element.container == "ranges":
            self._ranges.update(dict.fromkeys(places_of((element,)), element.place))

    def _remove(self, element: Element) -> None:
        del self._data[element.place]
        self._places[owner_of(element)].discard(element.place)
        if element.container == "ranges":
            for place in places_of((element,)):
                self._ranges.pop(place, None)


def _compare(
    actual: Actual | None, desired: Desired
) -> tuple[dict[Place, int], dict[int, Elements], tuple[Group, ...], tuple[Refusal, ...]]:
    claims: dict[Place, int] = {}
    accepted, refused = claim(claims, desired.items)
    refused = (*desired.refused, *refused)
    keep = {refusal.owner for refusal in refused}
    return claims, accepted, groups_between(actual.elements if actual else {}, accepted, keep), refused
