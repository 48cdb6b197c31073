"""The WireGuard side of a node: peers and, on gateways, one route per agent. Gateways and agents share it."""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from kakuremichi.dataplane.links.desired import LinkState
from kakuremichi.dataplane.links.device import LinkDevice, LinkError
from kakuremichi.dataplane.links.device import Outcome as LinkOutcome
from kakuremichi.dataplane.links.diff import AddRoute, RemoveRoute
from kakuremichi.dataplane.links.reconcile import reconcile
from kakuremichi.dataplane.wireguard.desired import Peer
from kakuremichi.dataplane.wireguard.device import DeviceError, Outcome
from kakuremichi.dataplane.wireguard.diff import RemovePeer, SetPeer
from kakuremichi.dataplane.wireguard.reconcile import PeerReconciler
from kakuremichi.model.addresses import IPNetwork
from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import PublicKey
from kakuremichi.reconcile.holding import Key

Errors = Mapping[Key, str]


@dataclass
class PeerSection:
    """The peers of the interface, by node. What was given to the engine is remembered, so a change costs one step."""

    kind: str  # of the feed's records: "agent-peer" or "gateway-peer"
    peers: PeerReconciler
    peer_of: Callable[[NodeId], Peer | None]  # as the model wants it now; None: not at all
    on_set: Callable[[AbstractSet[PublicKey]], None] = lambda _keys: None  # told of peers that were set, not renewed
    _given: dict[NodeId, Peer] = field(default_factory=dict)
    _anew: set[NodeId] = field(default_factory=set)

    @property
    def given(self) -> Mapping[NodeId, Peer]:
        """What the engine was given."""
        return self._given

    def renew(self, nodes: Iterable[NodeId]) -> None:
        """The next pass over these nodes removes their peers first, so that the engine begins anew with them."""
        self._anew.update(nodes)

    def replaces(self, nodes: Iterable[NodeId]) -> bool:
        """Whether one of them is to have another key than the engine was given."""
        return any(
            (given := self._given.get(node)) is not None
            and (wanted := self.peer_of(node)) is not None
            and wanted.public_key != given.public_key
            for node in nodes
        )

    async def bring(self, nodes: Iterable[NodeId]) -> Errors:
        """Add and replace, before anything is routed there."""
        return await self._change([node for node in nodes if self.peer_of(node) is not None])

    async def take(self, nodes: Iterable[NodeId]) -> Errors:
        """Remove, after nothing is routed there any more."""
        return await self._change([node for node in nodes if self.peer_of(node) is None])

    async def whole(self, nodes: Iterable[NodeId], revoked: AbstractSet[PublicKey] = frozenset()) -> Errors:
        """Compare with all that the engine has."""
        wanted = {node: peer for node in nodes if (peer := self.peer_of(node)) is not None}
        try:
            outcomes = await self.peers.reconcile({peer.public_key: peer for peer in wanted.values()}, revoked)
        except DeviceError as error:
            return {(self.kind, str(node)): str(error) for node in wanted} or {(self.kind, "*"): str(error)}
        errors = self._errors(outcomes, wanted)
        self._given = {node: peer for node, peer in wanted.items() if (self.kind, str(node)) not in errors}
        self._tell(outcomes, frozenset())
        return errors

    async def _change(self, nodes: list[NodeId]) -> Errors:
        before = {peer.public_key: peer for node in nodes if (peer := self._given.get(node)) is not None}
        wanted = {node: peer for node in nodes if (peer := self.peer_of(node)) is not None}
        after = {peer.public_key: peer for peer in wanted.values()}
        if not before and not after:
            return {}
        try:
            again = self._taken_anew(before)
            if again:
                await self.peers.change(again, {})
            outcomes = await self.peers.change({key: before[key] for key in before.keys() - again.keys()}, after)
        except DeviceError as error:
            return {(self.kind, str(node)): str(error) for node in nodes}
        errors = self._errors(
            outcomes, {**{node: self._given[node] for node in nodes if node in self._given}, **wanted}
        )
        for node in nodes:
            if (self.kind, str(node)) in errors:
                continue
            self._given.pop(node, None)
            if node in wanted:
                self._given[node] = wanted[node]
        self._tell(outcomes, again.keys())
        return errors

    def _taken_anew(self, before: Mapping[PublicKey, Peer]) -> dict[PublicKey, Peer]:
        keys = {self._given[node].public_key for node in self._anew if node in self._given}
        again = {key: peer for key, peer in before.items() if key in keys}
        self._anew = {node for node in self._anew if node in self._given and self._given[node].public_key not in again}
        return again

    def _tell(self, outcomes: Iterable[Outcome], renewed: AbstractSet[PublicKey]) -> None:
        done = [outcome.step for outcome in outcomes if outcome.error is None]
        if fresh := {step.peer.public_key for step in done if isinstance(step, SetPeer)} - renewed:
            self.on_set(fresh)

    def _errors(self, outcomes: Iterable[Outcome], named: Mapping[NodeId, Peer]) -> dict[Key, str]:
        owners = {peer.public_key: node for node, peer in named.items()}
        errors: dict[Key, str] = {}
        for outcome in outcomes:
            if outcome.error is not None:
                errors[self.kind, str(owners.get(_key_of(outcome.step), "*"))] = outcome.error
        return errors


@dataclass
class RouteSection:
    """Our routes into the tunnel, one per agent; the interface itself is brought up by the first full compare."""

    kind: str
    link: LinkDevice
    route_of: Callable[[NodeId], IPNetwork | None]
    base: Callable[[], LinkState]  # alias, addresses, and the routes that are nobody's in particular
    _given: dict[NodeId, IPNetwork] = field(default_factory=dict)

    async def bring(self, nodes: Iterable[NodeId]) -> Errors:
        wanted = {node: network for node in nodes if (network := self.route_of(node)) is not None}
        todo = {node: network for node, network in wanted.items() if self._given.get(node) != network}
        outcomes = await self.link.apply([AddRoute(network) for network in todo.values()])
        return self._settle(outcomes, todo)

    async def take(self, nodes: Iterable[NodeId]) -> Errors:
        todo = {node: self._given[node] for node in nodes if node in self._given and self.route_of(node) is None}
        held = set(self._given.values()) - set(todo.values())
        outcomes = await self.link.apply([RemoveRoute(network) for network in todo.values() if network not in held])
        for node in todo:
            del self._given[node]
        return self._settle(outcomes, todo, keep=False)

    async def whole(self, nodes: Iterable[NodeId]) -> Errors:
        wanted = {node: network for node in nodes if (network := self.route_of(node)) is not None}
        base = self.base()
        desired = LinkState(base.alias, base.up, base.mtu, base.addresses, base.routes | frozenset(wanted.values()))
        try:
            outcomes = await reconcile(desired, self.link)
        except LinkError as error:
            return {(self.kind, "*"): str(error)}
        self._given = {}
        return self._settle(outcomes, wanted)

    def _settle(
        self, outcomes: Iterable[LinkOutcome], wanted: Mapping[NodeId, IPNetwork], *, keep: bool = True
    ) -> Errors:
        owners = {network: node for node, network in wanted.items()}
        errors: dict[Key, str] = {}
        for outcome in outcomes:
            if outcome.error is not None:
                step = outcome.step
                owner = owners.get(step.network) if isinstance(step, AddRoute | RemoveRoute) else None
                errors[self.kind, str(owner or "*")] = outcome.error
        if keep:
            self._given |= {node: network for node, network in wanted.items() if (self.kind, str(node)) not in errors}
        return errors


def _key_of(step: SetPeer | RemovePeer) -> PublicKey:
    return step.peer.public_key if isinstance(step, SetPeer) else step.public_key
