"""Which reconcilers an agent has, and in which order a pass runs them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from kakuremichi.dataplane.nftables import conntrack
from kakuremichi.dataplane.nftables.agent import (
    AgentTable,
    Target,
    agent_desired,
    agent_elements,
    agent_wide_elements,
)
from kakuremichi.dataplane.nftables.elements import TABLE_WIDE, Elements, ItemRefusedError, Ports
from kakuremichi.dataplane.nftables.errors import TableError
from kakuremichi.dataplane.nftables.marks import Proto, target_number
from kakuremichi.dataplane.nftables.reconcile import Reconciler, Report
from kakuremichi.model.addresses import IPAddress
from kakuremichi.model.ids import NodeId
from kakuremichi.node.direct import DirectRecords
from kakuremichi.node.peering import PeerSection, RouteSection
from kakuremichi.node.rotation import SETTLE_S
from kakuremichi.node.worker import Perform, Plan
from kakuremichi.reconcile.holding import Holding, Key
from kakuremichi.wire.records import AnyRecord
from kakuremichi_agent.model import AgentModel, Dirty, TargetFacts

Errors = Mapping[Key, str]
TABLE: Key = ("target", "*")  # what concerns all targets


@dataclass
class TargetSection:
    """The ports on the agent's tunnel address, and which gateways may use them."""

    model: AgentModel
    reconciler: Reconciler
    interface: str
    address: IPv4Address
    address6: IPv6Address | None = None  # None: the host has no IPv6
    flush: Callable[[Iterable[int]], Awaitable[None]] = conntrack.flush_all  # ends flows by their mark
    flush_from: Callable[[Iterable[IPAddress]], Awaitable[None]] = conntrack.flush_from  # and by who opened them
    _numbers: dict[str, int] = field(default_factory=dict)

    async def change(self, targets: Iterable[str], *, gateways: bool) -> Errors:
        items: dict[int, Elements] = {}
        errors: dict[Key, str] = {}
        for name in targets:
            facts = self.model.targets.get(name)
            try:
                items |= self._elements(name, facts)
            except ItemRefusedError as error:
                errors["target", name] = str(error)
        if gateways:
            items[TABLE_WIDE] = agent_wide_elements(self._gateways(), ())
        if items:
            try:
                errors.update(await self._settle(await self.reconciler.change(items)))
            except TableError as error:
                errors.update(dict.fromkeys((("target", name) for name in targets), str(error)) or {TABLE: str(error)})
        return errors

    async def whole(self) -> Errors:
        table = AgentTable(
            self.interface,
            self.address,
            self._gateways(),
            self.address6,
            targets={_place(facts): Target(facts.address, facts.port) for facts in self.model.targets.values()},
        )
        self._numbers = {name: _number(facts) for name, facts in self.model.targets.items()}
        try:
            return await self._settle(await self.reconciler.full(agent_desired(table)))
        except TableError as error:
            return {TABLE: str(error)}

    def _elements(self, name: str, facts: TargetFacts | None) -> dict[int, Elements]:
        """The target's elements, and nothing in the place where it was before."""
        items: dict[int, Elements] = {}
        before = self._numbers.get(name)
        if before is not None and list(self._numbers.values()).count(before) == 1:
            items[before] = frozenset()
        if facts is None:
            self._numbers.pop(name, None)
            return items
        table = AgentTable(self.interface, self.address, frozenset(), self.address6)
        proto, ports = _place(facts)
        # May be refused: then what was there before stays known, so that it can still be taken away.
        items[_number(facts)] = agent_elements(table, proto, ports, Target(facts.address, facts.port))
        self._numbers[name] = _number(facts)
        return items

    def _gateways(self) -> frozenset[IPAddress]:
        return frozenset(address for facts in self.model.gateways.values() for address in facts.addresses)

    async def _settle(self, report: Report) -> Errors:
        await self.flush(report.flush)
        names = {number: name for name, number in self._numbers.items()}
        return {
            (("target", names[refusal.owner]) if refusal.owner in names else TABLE): refusal.reason
            for refusal in report.refused
        }


@dataclass
class Agent:
    """A gateway's peer is there before its packets are let in. Who is revoked or removed goes first, flows and all."""

    model: AgentModel
    holdings: tuple[Holding, ...]
    peers: PeerSection
    routes: RouteSection
    targets: TargetSection
    direct: DirectRecords = field(default_factory=DirectRecords)
    _to_cut: dict[NodeId, tuple[IPAddress, ...]] = field(default_factory=dict)  # until its flows are forgotten

    def plan(self, keys: frozenset[Key]) -> Plan:
        dirty = self.model.take((key, self.direct.prefer(key, self.listed(key))) for key in sorted(keys))
        self._to_cut |= dirty.cut
        return Plan(dirty.scope | keys, dirty.errors, self._steps(dirty))

    def plan_all(self, keys: frozenset[Key]) -> Plan:
        wanted = {key: record for holding in self.holdings for key, record in holding.records()}
        keys |= wanted.keys() | {("gateway-peer", str(node)) for node in self.model.gateways}
        keys |= {("target", name) for name in self.model.targets}
        dirty = self.model.take((key, self.direct.prefer(key, wanted.get(key))) for key in sorted(keys))
        self._to_cut |= dirty.cut
        steps: tuple[tuple[str, Perform], ...] = (
            *self._settling(self.model.gateways),
            ("wireguard", lambda: self.peers.whole(list(self.model.gateways))),
            ("links", lambda: self.routes.whole(())),
            ("nftables", self.targets.whole),
            *((("flows", self._cut),) if self._to_cut else ()),
        )
        return Plan(dirty.scope, dirty.errors, steps)

    def listed(self, key: Key) -> AnyRecord | None:
        """What the feeds say of it."""
        for holding in self.holdings:
            record = holding.desired(key)
            if record is not None:
                return record
        return None

    def _steps(self, dirty: Dirty) -> list[tuple[str, Perform]]:
        gateways, targets = sorted(dirty.gateways), sorted(dirty.targets)
        steps: list[tuple[str, Perform]] = []
        if dirty.cut:
            steps.append(("wireguard cut", lambda: self.peers.take(sorted(dirty.cut))))
        if self._to_cut:
            steps.append(("flows", self._cut))
        if gateways:
            steps += self._settling(gateways)
            steps.append(("wireguard", lambda: self.peers.bring(gateways)))
        if gateways or targets:
            steps.append(("nftables", lambda: self.targets.change(targets, gateways=bool(gateways))))
        if any(node not in self.model.gateways for node in gateways):
            steps.append(("wireguard remove", lambda: self.peers.take(gateways)))
        return steps

    def _settling(self, gateways: Iterable[NodeId]) -> list[tuple[str, Perform]]:
        """A gateway with another key than before may hear only now that it is accepted: let it move first."""
        return [("settle", _let_gateways_move)] if self.peers.replaces(gateways) else []

    async def _cut(self) -> Errors:
        """Forget the flows of gateways that are gone."""
        todo = dict(self._to_cut)
        try:
            await self.targets.flush_from([address for addresses in todo.values() for address in addresses])
        except TableError as error:
            return {("gateway-peer", str(node)): str(error) for node in todo}
        self._to_cut = {node: at for node, at in self._to_cut.items() if node not in todo}
        return {}


async def _let_gateways_move() -> Errors:
    await asyncio.sleep(SETTLE_S)
    return {}


def _place(facts: TargetFacts) -> tuple[Proto, Ports]:
    return ("udp" if facts.proto == "udp" else "tcp"), Ports.of(facts.first_port, facts.last_port)


def _number(facts: TargetFacts) -> int:
    proto, ports = _place(facts)
    return target_number(proto, ports.first)
