"""Which subnet an agent gets and which slot a gateway. Pure; the database's constraints have the last word."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Network

from kakuremichi.model.addresses import SLOTS, SUBNET_PREFIX, IPNetwork

DEFAULT_NETWORKS = (IPv4Network("10.0.0.0/8"), IPv4Network("100.64.0.0/10"), IPv4Network("172.16.0.0/12"))
STEP = 2 ** (32 - SUBNET_PREFIX)

Span = tuple[int, int]  # addresses as numbers, both ends included


class ExhaustedError(Exception):
    """Nothing is left to give; a sentence."""


def lowest_free_subnet(
    networks: Sequence[IPv4Network], assigned: Collection[int], avoid: Iterable[IPNetwork]
) -> IPv4Network:
    """The first /24 of `networks`, in their order, that is neither assigned nor overlaps a network of `avoid`.

    `assigned` are network addresses of /24s as numbers; :class:`ExhaustedError` if there is none.
    """
    taken, used = frozenset(assigned), spans(avoid)
    for network in networks:
        found = _first_free(int(network.network_address), int(network.broadcast_address), taken, used)
        if found is not None:
            return IPv4Network((found, SUBNET_PREFIX))
    pools = ", ".join(map(str, networks))
    raise ExhaustedError(f"subnet: no free /24 is left in {pools} that overlaps no network of the site or a gateway")


def spans(networks: Iterable[IPNetwork]) -> list[Span]:
    """The IPv4 networks as disjoint spans in ascending order; IPv6 ones cannot overlap a subnet."""
    ends = sorted((int(net.network_address), int(net.broadcast_address)) for net in networks if net.version == 4)
    merged: list[Span] = []
    for first, last in ends:
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def _first_free(first: int, last: int, taken: frozenset[int], used: Sequence[Span]) -> int | None:
    at = first
    while at + STEP - 1 <= last:
        blocker = _overlapping(used, at, at + STEP - 1)
        if blocker is not None:
            at = (blocker[1] // STEP + 1) * STEP  # the first /24 after what is in the way
        elif at in taken:
            at += STEP
        else:
            return at
    return None


def _overlapping(used: Sequence[Span], first: int, last: int) -> Span | None:
    index = bisect_left(used, last + 1, key=lambda span: span[0]) - 1  # the last span that begins at or before `last`
    if index >= 0 and used[index][1] >= first:
        return used[index]
    return None


def next_slot(live: Collection[int], freed: Mapping[int, float]) -> int:
    """The lowest slot never used; when all were, the one that has been free for longest.

    `freed` says when a slot was given back. A slot is part of an address that agents know, so it rests.
    """
    fresh = [slot for slot in SLOTS if slot not in live and slot not in freed]
    if fresh:
        return fresh[0]
    resting = [slot for slot in freed if slot not in live]
    if not resting:
        raise ExhaustedError(f"slot: all {len(SLOTS)} gateways that a pool may have are there")
    return min(resting, key=lambda slot: (freed[slot], slot))


def overlaps(subnets: Iterable[tuple[str, int]], networks: Iterable[IPNetwork]) -> tuple[str, ...]:
    """Of (name, network address of a /24), those that overlap `networks`, as "name 10.0.0.0/24"."""
    used = spans(networks)
    return tuple(
        f"{name} {IPv4Network((at, SUBNET_PREFIX))}"
        for name, at in subnets
        if _overlapping(used, at, at + STEP - 1) is not None
    )
