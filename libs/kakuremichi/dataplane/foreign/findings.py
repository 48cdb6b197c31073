"""What a foreign firewall keeps from a service, and how to mend it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from kakuremichi.dataplane.foreign.mending import Accept, Mending, mending_for
from kakuremichi.dataplane.foreign.packet import Packet
from kakuremichi.dataplane.foreign.program import BaseChain, Place, Ruleset
from kakuremichi.dataplane.foreign.walk import Outcome, walk


@dataclass(frozen=True, slots=True)
class Flow:
    """Traffic that a service needs. Each of `ways` is one that it may take, with packets that all have to pass.

    The samples stand for many: only what is dropped on every way is said to be blocked.
    """

    accept: Accept
    ways: tuple[tuple[Packet, ...], ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """A base chain of somebody else that drops it for certain."""

    base: Place
    mending: Mending

    @property
    def sentence(self) -> str:
        return f"blocked-by {self.base}: {self.mending.command}"


def findings(ruleset: Ruleset, flow: Flow) -> tuple[Finding, ...]:
    """Empty if the flow passes, or if that cannot be said for certain."""
    found: dict[Finding, None] = {}
    for packets in flow.ways:
        of_way = [finding for packet in packets for finding in _dropped(ruleset, flow.accept, packet)]
        if not of_way:
            return ()
        found.update(dict.fromkeys(of_way))
    return tuple(found)


def may_be_dropped(ruleset: Ruleset, flow: Flow) -> bool:
    """False: whatever the flow leaves open, none of its packets is dropped."""
    return any(
        Outcome.DROP in walk(ruleset, base, packet).outcomes
        for packets in flow.ways
        for packet in packets
        for base in _met(ruleset.bases, packet)
    )


def _dropped(ruleset: Ruleset, accept: Accept, packet: Packet) -> Iterable[Finding]:
    for base in _met(ruleset.bases, packet):
        way = walk(ruleset, base, packet)
        if way.drops:
            yield Finding(base.place, mending_for(ruleset, base.place, way.reached, accept))


def _met(bases: Iterable[BaseChain], packet: Packet) -> Iterable[BaseChain]:
    """Each has its own last word: an accept in one does not hinder the next from dropping."""
    families = ("inet", "ip" if packet.version == 4 else "ip6")
    return (base for base in bases if base.hook == packet.hook and base.place.family in families)
