"""A table in memory that behaves like the kernel's: all or nothing, no doubled or overlapping elements."""

from collections.abc import Collection, Mapping
from ipaddress import ip_network

from kakuremichi.dataplane.nftables.elements import Data, Element, Place, owner_of
from kakuremichi.dataplane.nftables.errors import DeviceError, RefusedError
from kakuremichi.dataplane.nftables.limits import Policy, policies_of
from kakuremichi.dataplane.nftables.reader import Actual, Counters, policy_comments
from kakuremichi.dataplane.nftables.render import (
    AddElements,
    Batch,
    DeleteTable,
    PutSkeleton,
    RemoveElements,
    RemovePolicies,
    Step,
)
from kakuremichi.dataplane.nftables.skeleton import Skeleton


class MemoryTable:
    """Fails on request: `fail_at` refuses whole batches by their place in the order of calls,

    `lose_at` applies them and then reports that nobody knows, `poison` refuses every batch that adds this place.
    """

    def __init__(
        self,
        *,
        fail_at: Collection[int] = (),
        lose_at: Collection[int] = (),
        poison: Collection[Place] = (),
    ) -> None:
        self.fail_at, self.lose_at, self.poison = set(fail_at), set(lose_at), set(poison)
        self.batches: list[Batch] = []
        self.reads = 0
        self.skeleton: Skeleton | None = None
        self.elements: dict[Place, Data] = {}
        self.policies: frozenset[Policy] = frozenset()

    async def read(self) -> Actual | None:
        self.reads += 1
        if self.skeleton is None:
            return None
        policies = {policy: policy_comments(policy) for policy in self.policies}
        return Actual(self.skeleton.rule_ids, dict(self.elements), policies)

    async def apply(self, batch: Batch) -> None:
        call = len(self.batches)
        self.batches.append(batch)
        if call in self.fail_at:
            raise RefusedError("nft: Could not process rule: No buffer space available")
        before = self.skeleton, self.elements, self.policies
        self.elements = dict(self.elements)
        try:
            for step in batch:
                self._take(step)
        except RefusedError:
            self.skeleton, self.elements, self.policies = before
            raise
        if call in self.lose_at:
            raise DeviceError("nft: no answer within 20 s")

    async def counters(self) -> Mapping[int, Counters]:
        return {owner_of(Element(*place)): Counters() for place in self.elements if place[0] == "used"}

    def _take(self, step: Step) -> None:
        match step:
            case PutSkeleton(new):
                self.skeleton, self.elements, self.policies = new, {}, frozenset()
            case DeleteTable():
                _must_exist(self.skeleton)
                self.skeleton, self.elements, self.policies = None, {}, frozenset()
            case RemoveElements(removed):
                _must_exist(self.skeleton)
                for element in removed:
                    if self.elements.pop(element.place, None) is None:
                        raise RefusedError("nft: Could not process rule: No such file or directory")
            case AddElements(added):
                for element in added:
                    self._add(element, _must_exist(self.skeleton))
                self.policies |= policies_of((element.container, element.data) for element in added)
            case RemovePolicies(policies):
                self._remove_policies(frozenset(policies))

    def _remove_policies(self, policies: frozenset[Policy]) -> None:
        if not policies <= self.policies:
            raise RefusedError("nft: Could not process rule: No such file or directory")
        if policies & policies_of((name, data) for (name, _), data in self.elements.items()):
            raise RefusedError("nft: Could not process rule: Device or resource busy")
        self.policies -= policies

    def _add(self, element: Element, skeleton: Skeleton) -> None:
        held = self.elements.get(element.place)
        interval = any(c.interval for c in skeleton.containers if c.name == element.container)
        overlaps = interval and held is None and any(_overlap(element, Element(*place)) for place in self.elements)
        if element.place in self.poison or held not in (None, element.data) or overlaps:
            raise RefusedError("nft: Could not process rule: File exists")
        self.elements[element.place] = element.data


def _must_exist(skeleton: Skeleton | None) -> Skeleton:
    if skeleton is None:
        raise RefusedError("nft: No such file or directory")
    return skeleton


def _overlap(new: Element, other: Element) -> bool:
    """Whether an end of the new interval lies in the other; like the kernel, which misses one around another.

    Only the last column of our interval containers can be an interval.
    """
    if new.container != other.container or new.key[:-1] != other.key[:-1]:
        return False
    (first, last), (start, end) = _span(new), _span(other)
    return start <= first <= end or start <= last <= end


def _span(element: Element) -> tuple[int, int]:
    text = element.key[-1]
    if element.container == "ranges":
        first, _, last = text.partition("-")
        return int(first), int(last or first)
    network = ip_network(text)
    return int(network.network_address), int(network.broadcast_address)
