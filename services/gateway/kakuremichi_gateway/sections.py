"""Which reconcilers a gateway has, and in which order a pass runs them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kakuremichi.model.addresses import IPAddress
from kakuremichi.model.ids import NodeId
from kakuremichi.node.direct import DirectRecords
from kakuremichi.node.peering import PeerSection, RouteSection
from kakuremichi.node.worker import Perform, Plan
from kakuremichi.reconcile.holding import Holding, Key
from kakuremichi_gateway.model import Dirty, GatewayModel
from kakuremichi_gateway.publishing import HttpSection, L4Section

Errors = Mapping[Key, str]


@dataclass
class Gateway:
    """A peer is there before anything is routed to it. Who is revoked or removed goes first, with all that is open."""

    model: GatewayModel
    holding: Holding
    peers: PeerSection
    routes: RouteSection
    l4: L4Section
    http: HttpSection
    on_agents: Callable[[], None] = lambda: None
    direct: DirectRecords = field(default_factory=DirectRecords)
    _to_cut: dict[NodeId, tuple[IPAddress, ...]] = field(default_factory=dict)  # until HAProxy has done it

    def plan(self, keys: frozenset[Key]) -> Plan:
        dirty = self.model.take((key, self.direct.prefer(key, self.holding.desired(key))) for key in sorted(keys))
        self._to_cut |= dirty.cut
        return Plan(dirty.scope | keys, dirty.errors, self._steps(dirty))

    def plan_all(self, keys: frozenset[Key]) -> Plan:
        wanted = dict(self.holding.records())
        keys |= wanted.keys() | {("agent-peer", str(node)) for node in self.model.agents}
        keys |= {("route", str(service)) for service in self.model.routes}
        dirty = self.model.take((key, self.direct.prefer(key, wanted.get(key))) for key in sorted(keys))
        self._to_cut |= dirty.cut
        steps: tuple[tuple[str, Perform], ...] = (
            # The interface comes up with its peers already there: packets of a known peer are never refused.
            ("wireguard", lambda: self.peers.whole(list(self.model.agents))),
            ("links", lambda: self.routes.whole(list(self.model.agents))),
            ("nftables", self.l4.whole),
            ("haproxy", self.http.whole),
            *((("haproxy cut", self._cut),) if self._to_cut else ()),
        )
        return Plan(dirty.scope, dirty.errors, steps)

    def _steps(self, dirty: Dirty) -> list[tuple[str, Perform]]:
        agents, services = sorted(dirty.agents), sorted(dirty.services)
        steps: list[tuple[str, Perform]] = []
        if dirty.cut:
            steps.append(("wireguard cut", lambda: self.peers.take(sorted(dirty.cut))))
        if self._to_cut:
            steps.append(("haproxy cut", self._cut))
        if agents:
            steps += [
                ("wireguard", lambda: self.peers.bring(agents)),
                ("links", lambda: self.routes.bring(agents)),
            ]
        if services:
            # Both, whatever the kind: a service may have been replaced by one of the other.
            steps += [
                ("nftables", lambda: self.l4.change(services)),
                ("haproxy", lambda: self.http.change(services)),
            ]
        if any(self._is_gone(node) for node in agents):
            steps += [
                ("links remove", lambda: self.routes.take(agents)),
                ("wireguard remove", lambda: self.peers.take(agents)),
            ]
        return steps

    async def _cut(self) -> Errors:
        """End what is open to agents that are gone: without their peer it would hang, not end."""
        todo = dict(self._to_cut)
        errors = await self.http.cut([address for addresses in todo.values() for address in addresses])
        if not errors:
            self._to_cut = {node: at for node, at in self._to_cut.items() if node not in todo}
        return {("agent-peer", str(node)): sentence for node in todo for sentence in errors}

    def _is_gone(self, node: NodeId) -> bool:
        return node not in self.model.agents
