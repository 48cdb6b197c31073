"""Which changes lead from the elements that are there to those that are wanted. Pure."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from kakuremichi.dataplane.nftables.elements import Data, Element, Elements, Place, Refusal, owner_of
from kakuremichi.dataplane.nftables.marks import mark_of

Placed = Mapping[Place, Data]

# Elements that decide where a flow goes or whether it may be; the others only count or concern the whole table.
_ROUTING = frozenset(("ports", "ranges", "to4", "to6", "range4", "range6", "carried4", "carried6", "open"))
_ALLOW = ("allow4", "allow6")


@dataclass(frozen=True, slots=True)
class Group:
    """Changes that make sense only together: those of one owner, or of several that exchange a port."""

    owners: tuple[int, ...]
    remove: tuple[Element, ...] = ()
    add: tuple[Element, ...] = ()

    @property
    def size(self) -> int:
        return len(self.remove) + len(self.add)


def claim(claims: dict[Place, int], items: Mapping[int, Elements]) -> tuple[dict[int, Elements], tuple[Refusal, ...]]:
    """Enter the items' places in `claims`; an item that wants another one's place is refused whole."""
    accepted: dict[int, Elements] = {}
    refused: list[Refusal] = []
    for owner in sorted(items):
        places = places_of(items[owner])
        taken = min((place for place in places if claims.get(place, owner) != owner), default=None)
        if taken is not None:
            name, key = taken
            refused.append(Refusal(owner, f"item {owner}: {name} {' . '.join(key)} belongs to item {claims[taken]}"))
            continue
        accepted[owner] = items[owner]
        claims.update(dict.fromkeys(places, owner))
    return accepted, tuple(refused)


def places_of(elements: Iterable[Element]) -> set[Place]:
    """Every place that the elements fill; of a range, each of its ports.

    The kernel refuses an interval only if one of its *ends* lies in another one: a range around an older range
    would be taken in silence, and a port inside a range would take its flows.
    """
    places: set[Place] = set()
    for element in elements:
        if element.container == "ranges":
            *flow, ports = element.key
            first, _, last = ports.partition("-")
            places.update(("ports", (*flow, str(port))) for port in range(int(first), int(last) + 1))
        else:
            places.add(element.place)
    return places


def groups_between(
    actual: Placed, desired: Mapping[int, Elements], keep: AbstractSet[int] = frozenset()
) -> tuple[Group, ...]:
    """What to remove and add, per owner; owners in `keep` keep all that is in nobody's way.

    `desired` has been through :func:`claim`. An element with another value is removed and added in one group.
    """
    removes: dict[int, list[Element]] = {}
    adds: dict[int, list[Element]] = {}
    joined: list[tuple[int, int]] = []
    wanted: set[Place] = set()
    for owner, elements in desired.items():
        for element in elements:
            wanted.add(element.place)
            held = actual.get(element.place)
            if held == element.data:
                continue
            adds.setdefault(owner, []).append(element)
            if held is not None:
                old = Element(*element.place, held)
                removes.setdefault(owner, []).append(old)
                joined.append((owner, owner_of(old)))
    taken = {place for owner in desired for place in places_of(desired[owner])} if keep else set()
    for place in actual.keys() - wanted:
        stale = Element(*place, actual[place])
        if owner_of(stale) not in keep or not taken.isdisjoint(places_of((stale,))):
            removes.setdefault(owner_of(stale), []).append(stale)
    return _grouped(removes, adds, joined)


def stale_flows(group: Group) -> frozenset[int]:
    """The conntrack marks whose flows may not go on as they were: moved, narrowed or removed.

    A list that became wider is not among them: flows that were allowed still are.
    """
    opened = {owner_of(element) for element in group.add if element.container == "open"}
    numbers = {owner_of(element) for element in group.remove if element.container in _ROUTING}
    for element in group.remove:
        owner = owner_of(element)
        if element.container in _ALLOW and owner not in opened and not _still_allowed(element, group.add):
            numbers.add(owner)
    return frozenset(mark_of(number) for number in numbers)


def _still_allowed(removed: Element, added: Iterable[Element]) -> bool:
    gone = ip_network(removed.key[1])
    return any(
        element.container == removed.container
        and element.key[0] == removed.key[0]
        and _covers(ip_network(element.key[1]), gone)
        for element in added
    )


def _covers(wide: IPv4Network | IPv6Network, narrow: IPv4Network | IPv6Network) -> bool:
    return wide.version == narrow.version and narrow.network_address in wide and wide.prefixlen <= narrow.prefixlen


def _grouped(
    removes: Mapping[int, list[Element]], adds: Mapping[int, list[Element]], joined: Iterable[tuple[int, int]]
) -> tuple[Group, ...]:
    root = {owner: owner for owner in removes.keys() | adds.keys()}

    def find(owner: int) -> int:
        while root.setdefault(owner, owner) != owner:
            root[owner] = owner = root[root[owner]]
        return owner

    for one, other in joined:
        root[find(one)] = find(other)
    members: dict[int, list[int]] = {}
    for owner in sorted(removes.keys() | adds.keys()):
        members.setdefault(find(owner), []).append(owner)
    groups = [
        Group(
            tuple(owners),
            tuple(sorted(e for owner in owners for e in removes.get(owner, ()))),
            tuple(sorted(e for owner in owners for e in adds.get(owner, ()))),
        )
        for owners in members.values()
    ]
    # Alone, what only removes makes room for what adds.
    return tuple(sorted(groups, key=lambda group: (bool(group.add), group.owners)))
