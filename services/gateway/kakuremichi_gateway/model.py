"""What this gateway is to be: its agents and its routes, as far as signatures and certificates allow. Pure.

The registry orders and narrows; it cannot widen. A peer that does not lead to the trust set changes nothing:
what was accepted before stays. A route that cannot be carried out exactly as it is said is not served at all,
as what is not understood may be a restriction. Either way the sentence goes into the report.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import msgspec

from kakuremichi.model.addresses import (
    AddressRefusedError,
    IPAddress,
    IPNetwork,
    agent_address,
    parse_network,
    tunnel_address6,
)
from kakuremichi.model.ids import NodeId, PoolName, ServiceId
from kakuremichi.model.keys import PublicKey
from kakuremichi.model.options import NO_OPTIONS, OptionRefusedError, Options, check_options, check_path, ordered
from kakuremichi.reconcile.epochs import Epochs
from kakuremichi.reconcile.holding import Key
from kakuremichi.reconcile.verify import NotTrustedError, Verifier
from kakuremichi.wire.codec import WireError
from kakuremichi.wire.identity import Announcement, Certificate
from kakuremichi.wire.records import AgentPeer, AnyRecord, GatewayPeer, Revocation, Route, RouteWithOptions


class RecordRefusedError(ValueError):
    """A record is not taken into the desired state; a sentence for the report."""


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """An agent whose chain of signatures was checked."""

    node_id: NodeId
    subnet: IPv4Network
    address: IPv4Address
    public_key: PublicKey
    epoch: int
    serial: int
    hosts: tuple[str, ...]
    ports: tuple[str, ...]
    address6: IPv6Address | None = None  # None: this host has no IPv6

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        return (self.address,) if self.address6 is None else (self.address, self.address6)


@dataclass(frozen=True, slots=True)
class RouteFacts:
    """A service with the targets that its agents' certificates allow. No target is the state `no-target`."""

    service_id: ServiceId
    kind: str
    host: str
    path: str
    first_port: int
    last_port: int
    sources: tuple[IPNetwork, ...]
    # (target id, agent's address, port, weight); the address is of the family that the target has at its site.
    targets: tuple[tuple[str, IPAddress, int, int], ...]
    options: Options = NO_OPTIONS


@dataclass
class Dirty:
    """What a pass has to bring to the data plane."""

    agents: set[NodeId] = field(default_factory=set)
    services: set[ServiceId] = field(default_factory=set)
    errors: dict[Key, str] = field(default_factory=dict)
    # Agents that are gone or revoked, where they were.
    cut: dict[NodeId, tuple[IPAddress, ...]] = field(default_factory=dict)

    @property
    def scope(self) -> frozenset[Key]:
        """The keys about which this pass has the last word."""
        peers = {("agent-peer", str(node)) for node in self.agents}
        return frozenset(peers | {("route", str(service)) for service in self.services})


@dataclass
class GatewayModel:
    verifier: Verifier
    pool: PoolName
    tunnel6: IPv6Network | None = None  # the deployment's; None on a host without IPv6
    agents: dict[NodeId, AgentFacts] = field(default_factory=dict)
    routes: dict[ServiceId, RouteFacts] = field(default_factory=dict)
    epochs: Epochs = field(default_factory=Epochs)  # outlives the process: the node keeps it on disk
    _by_key: dict[PublicKey, NodeId] = field(default_factory=dict)
    _by_subnet: dict[IPv4Network, NodeId] = field(default_factory=dict)
    _records: dict[ServiceId, Route] = field(default_factory=dict)
    _services_of: dict[NodeId, set[ServiceId]] = field(default_factory=lambda: defaultdict(set))

    def take(self, changed: Iterable[tuple[Key, AnyRecord | None]]) -> Dirty:
        """Bring these records (None: gone) into the model; say what the data plane has to look at."""
        dirty = Dirty()
        routes: list[tuple[Key, Route | None]] = []
        changed = list(changed)
        for _, record in changed:
            if isinstance(record, Revocation):
                self._take_revocation(record, dirty)
        for key, record in changed:
            kind, name = key
            if kind == "route":
                routes.append((key, record if isinstance(record, Route) else None))
            elif kind == "agent-peer":
                self._take_agent(key, NodeId(name), record, dirty)
        for key, route in routes:
            self._index(ServiceId(key[1]), route)
            dirty.services.add(ServiceId(key[1]))
        for node in dirty.agents:
            dirty.services |= self._services_of[node]
        for service in dirty.services:
            self._decide_route(service, dirty)
        return dirty

    def everything(self) -> Dirty:
        """All there is, for a full compare."""
        dirty = Dirty(set(self.agents), set(self._records))
        for service in dirty.services:
            self._decide_route(service, dirty)
        return dirty

    def _take_agent(self, key: Key, node: NodeId, record: AnyRecord | None, dirty: Dirty) -> None:
        dirty.agents.add(node)
        if not isinstance(record, AgentPeer):
            self._cut_agent(node, dirty)
            return
        try:
            facts, said = self._open_agent(node, record)
            self.epochs.accept(said)
            self._drop_agent(node)
            self.agents[node] = facts
            self._by_key[facts.public_key] = self._by_subnet[facts.subnet] = node
        except (NotTrustedError, WireError, AddressRefusedError, RecordRefusedError) as error:
            dirty.errors[key] = str(error)

    def _drop_agent(self, node: NodeId) -> None:
        held = self.agents.pop(node, None)
        if held is not None:
            del self._by_key[held.public_key], self._by_subnet[held.subnet]

    def _cut_agent(self, node: NodeId, dirty: Dirty) -> None:
        held = self.agents.get(node)
        if held is not None:
            dirty.cut[node] = held.addresses
            dirty.agents.add(node)
            self._drop_agent(node)

    def check(self, record: AgentPeer | GatewayPeer) -> None:
        """Whether the record would be taken: one of the errors that `take` reports is raised if it would not."""
        if not isinstance(record, AgentPeer):
            raise RecordRefusedError(f"{record.node_id}: a gateway has agents for peers")
        self._open_agent(record.node_id, record)

    def _open_agent(self, node: NodeId, record: AgentPeer) -> tuple[AgentFacts, Announcement]:
        cert, said = self.verifier.peer(record.certificate, record.announcement, "agent", new=False)
        if node not in self.agents and not self.epochs.is_current(said):
            self.verifier.check_validity(cert)  # gates what is new; what was taken once comes back after any time
        if cert.node_id != node or record.node_id != node:
            raise RecordRefusedError(f"agent-peer {node}: its certificate is for {cert.node_id}")
        if cert.pool != self.pool:
            raise RecordRefusedError(f"agent-peer {node}: of pool {cert.pool}, this gateway serves {self.pool}")
        if reason := self.epochs.refusal(said):
            raise RecordRefusedError(f"agent-peer {node}: {reason}")
        subnet = _agent_subnet(cert)
        self._check_unique(node, said.public_key, subnet)
        facts = AgentFacts(
            node_id=node,
            subnet=subnet,
            address=agent_address(subnet),
            public_key=said.public_key,
            epoch=said.epoch,
            serial=cert.serial,
            hosts=cert.hosts,
            ports=cert.ports,
            address6=tunnel_address6(self.tunnel6, agent_address(subnet)) if self.tunnel6 is not None else None,
        )
        return facts, said

    def _check_unique(self, node: NodeId, public_key: PublicKey, subnet: IPv4Network) -> None:
        """WireGuard would silently move an allowed IP, or merge two peers: whoever holds it keeps it."""
        holder = self._by_key.get(public_key, node)
        if holder != node:
            raise RecordRefusedError(f"agent-peer {node}: its key is that of {holder}")
        holder = self._by_subnet.get(subnet, node)  # all are /24, so to overlap is to be equal
        if holder != node:
            raise RecordRefusedError(f"agent-peer {node}: {subnet} is that of {holder}")

    def _take_revocation(self, record: Revocation, dirty: Dirty) -> None:
        self.epochs.revoke(record)
        held = self.agents.get(record.node_id)
        if held is not None and held.epoch <= record.epoch:
            self._cut_agent(record.node_id, dirty)

    def _index(self, service: ServiceId, route: Route | None) -> None:
        old = self._records.pop(service, None)
        for target in old.targets if old else ():
            self._services_of[target.agent].discard(service)
        if route is None:
            return
        self._records[service] = route
        for target in route.targets:
            self._services_of[target.agent].add(service)

    def _decide_route(self, service: ServiceId, dirty: Dirty) -> None:
        route = self._records.get(service)
        if route is None:
            self.routes.pop(service, None)
            return
        key: Key = ("route", str(service))
        try:
            facts, refusals = self._open_route(route)
        except (RecordRefusedError, AddressRefusedError) as error:
            dirty.errors[key] = str(error)
            self.routes.pop(service, None)
            return
        self.routes[service] = facts
        if refusals:
            dirty.errors[key] = "; ".join(refusals)

    def _open_route(self, route: Route) -> tuple[RouteFacts, list[str]]:
        if route.kind == "tls" or route.policy or route.certificates:
            raise RecordRefusedError(f"route {route.service_id}: asks for what this gateway's version cannot do")
        options = _options(route)
        if options.upstream.ipv6 and self.tunnel6 is None:
            raise RecordRefusedError(f"route {route.service_id}: its target has IPv6, this gateway's host has none")
        targets, refusals = [], []
        for target in route.targets:
            agent = self.agents.get(target.agent)
            if agent is None:
                refusals.append(f"target {target.target_id}: agent {target.agent} has announced no key")
            elif not _covers(agent, route):
                refusals.append(f"target {target.target_id}: the certificate of {target.agent} does not cover it")
            else:
                address = agent.address6 if options.upstream.ipv6 and agent.address6 is not None else agent.address
                targets.append((target.target_id, address, target.agent_port, target.weight))
        facts = RouteFacts(
            service_id=route.service_id,
            kind=route.kind,
            host=route.host,
            path=route.path,
            first_port=route.first_port,
            last_port=route.last_port,
            sources=tuple(parse_network(text) for text in route.sources),
            targets=tuple(targets),
            options=options,
        )
        return facts, refusals


def _agent_subnet(cert: Certificate) -> IPv4Network:
    subnet = parse_network(cert.subnet)
    if not isinstance(subnet, IPv4Network) or subnet.prefixlen != 24:
        raise RecordRefusedError(f"certificate of {cert.node_id}: subnet {cert.subnet} is no IPv4 /24")
    return subnet


def _options(route: Route) -> Options:
    """What the route asks for; the registry's word that it was checked is not taken."""
    if not isinstance(route, RouteWithOptions):
        if route.path or route.host.startswith("*.") or (route.kind == "http" and route.sources):
            raise RecordRefusedError(f"route {route.service_id}: asks for more than its version can say")
        return NO_OPTIONS
    try:
        options = msgspec.msgpack.decode(route.options, type=Options)
        check_path(route.path)
        check_options(route.kind, route.path, options)
    except (msgspec.MsgspecError, OptionRefusedError, UnicodeDecodeError, RecursionError) as error:
        raise RecordRefusedError(f"route {route.service_id}: {error}") from error
    return ordered(options)


def _covers(agent: AgentFacts, route: Route) -> bool:
    """Whether the owner of the agent lets this host name, or these public ports, be routed to it."""
    if route.kind == "http":
        _, dot, rest = route.host.partition(".")
        return any(host in {"*", route.host, f"*{dot}{rest}"} for host in agent.hosts)
    return any(_spans(ports, route.first_port, route.last_port) for ports in agent.ports)


def _spans(ports: str, first: int, last: int) -> bool:
    """Whether the certificate's entry holds all of first to last; an entry that is no port range holds nothing."""
    if not 0 < first <= last < 65536:
        return False
    if ports == "*":
        return True
    low, dash, high = ports.partition("-")
    if not all(text.isascii() and text.isdigit() and len(text) <= 5 for text in (low, high if dash else low)):
        return False
    return int(low) <= first and last <= int(high if dash else low)
