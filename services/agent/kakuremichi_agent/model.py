"""What this agent is to be: the gateways of its pool and the private services behind its ports. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from kakuremichi.model.addresses import (
    AddressRefusedError,
    Endpoint,
    IPAddress,
    gateway_address,
    parse_address,
    parse_endpoint,
    tunnel_address6,
)
from kakuremichi.model.ids import NodeId, PoolName
from kakuremichi.model.keys import PublicKey
from kakuremichi.reconcile.epochs import Epochs
from kakuremichi.reconcile.holding import Key
from kakuremichi.reconcile.verify import NotTrustedError, Verifier
from kakuremichi.wire.codec import WireError
from kakuremichi.wire.identity import Announcement
from kakuremichi.wire.records import IPV6_OF_NAME, AgentPeer, AnyRecord, GatewayPeer, Revocation, Target
from kakuremichi_agent.allow import Allow, NotAllowedError
from kakuremichi_agent.names import NameBook


class RecordRefusedError(ValueError):
    """A record is not taken into the desired state; a sentence for the report."""


@dataclass(frozen=True, slots=True)
class GatewayFacts:
    """A gateway whose chain of signatures was checked."""

    node_id: NodeId
    address: IPv4Address  # inside this agent's subnet
    public_key: PublicKey
    endpoint: Endpoint
    epoch: int
    address6: IPv6Address | None = None

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        return (self.address,) if self.address6 is None else (self.address, self.address6)


@dataclass(frozen=True, slots=True)
class TargetFacts:
    target_id: str
    proto: str
    first_port: int  # on the agent's tunnel address
    last_port: int
    address: IPAddress
    port: int  # of the target; a range keeps its numbers
    name: str = ""  # whose address it is, if the record has a name


@dataclass
class Dirty:
    gateways: set[NodeId] = field(default_factory=set)
    targets: set[str] = field(default_factory=set)
    errors: dict[Key, str] = field(default_factory=dict)
    # Gateways that are gone or revoked, where they were.
    cut: dict[NodeId, tuple[IPAddress, ...]] = field(default_factory=dict)

    @property
    def scope(self) -> frozenset[Key]:
        """The keys about which this pass has the last word."""
        peers = {("gateway-peer", str(node)) for node in self.gateways}
        return frozenset(peers | {("target", target) for target in self.targets})


@dataclass
class AgentModel:
    verifier: Verifier
    pool: PoolName
    subnet: IPv4Network
    allow: Allow
    tunnel6: IPv6Network | None = None  # the deployment's; None on a host without IPv6
    gateways: dict[NodeId, GatewayFacts] = field(default_factory=dict)
    targets: dict[str, TargetFacts] = field(default_factory=dict)
    epochs: Epochs = field(default_factory=Epochs)  # outlives the process: the node keeps it on disk
    names: NameBook = field(default_factory=NameBook)

    def take(self, changed: Iterable[tuple[Key, AnyRecord | None]]) -> Dirty:
        """Bring these records (None: gone) into the model; say what the data plane has to look at."""
        dirty = Dirty()
        changed = list(changed)
        for _, record in changed:
            if isinstance(record, Revocation):
                self._take_revocation(record, dirty)
        for key, record in changed:
            kind, name = key
            if kind == "gateway-peer":
                self._take_gateway(key, NodeId(name), record, dirty)
            elif kind == "target":
                self._take_target(key, name, record, dirty)
        return dirty

    def everything(self) -> Dirty:
        """All there is, for a full compare."""
        return Dirty(set(self.gateways), set(self.targets))

    def _take_gateway(self, key: Key, node: NodeId, record: AnyRecord | None, dirty: Dirty) -> None:
        dirty.gateways.add(node)
        if not isinstance(record, GatewayPeer):
            self._cut_gateway(node, dirty)
            return
        try:
            facts, said = self._open_gateway(node, record)
            self.epochs.accept(said)
            self.gateways[node] = facts
        except (NotTrustedError, WireError, AddressRefusedError, RecordRefusedError) as error:
            dirty.errors[key] = str(error)

    def _cut_gateway(self, node: NodeId, dirty: Dirty) -> None:
        held = self.gateways.pop(node, None)
        if held is not None:
            dirty.cut[node] = held.addresses
            dirty.gateways.add(node)

    def check(self, record: AgentPeer | GatewayPeer) -> None:
        """Whether the record would be taken: one of the errors that `take` reports is raised if it would not."""
        if not isinstance(record, GatewayPeer):
            raise RecordRefusedError(f"{record.node_id}: an agent has gateways for peers")
        self._open_gateway(record.node_id, record)

    def _open_gateway(self, node: NodeId, record: GatewayPeer) -> tuple[GatewayFacts, Announcement]:
        cert, said = self.verifier.peer(record.certificate, record.announcement, "gateway", new=False)
        if node not in self.gateways and not self.epochs.is_current(said):
            self.verifier.check_validity(cert)  # gates what is new; what was taken once comes back after any time
        if cert.node_id != node or record.node_id != node:
            raise RecordRefusedError(f"gateway-peer {node}: its certificate is for {cert.node_id}")
        if cert.pool != self.pool:
            raise RecordRefusedError(f"gateway-peer {node}: of pool {cert.pool}, this agent is in {self.pool}")
        if reason := self.epochs.refusal(said):
            raise RecordRefusedError(f"gateway-peer {node}: {reason}")
        if not said.endpoints:
            raise RecordRefusedError(f"gateway-peer {node}: it announces no endpoint")
        address = gateway_address(self.subnet, cert.slot)
        for other in self.gateways.values():
            if other.node_id != node and (other.address == address or other.public_key == said.public_key):
                raise RecordRefusedError(f"gateway-peer {node}: its slot or key is that of {other.node_id}")
        address6 = tunnel_address6(self.tunnel6, address) if self.tunnel6 is not None else None
        endpoint = parse_endpoint(said.endpoints[0])
        return GatewayFacts(node, address, said.public_key, endpoint, said.epoch, address6), said

    def _take_target(self, key: Key, name: str, record: AnyRecord | None, dirty: Dirty) -> None:
        dirty.targets.add(name)
        # A target that is refused now must not stay as it was: the site's word counts.
        held = self.targets.pop(name, None)
        self.names.want(name, record.name if isinstance(record, Target) else "")
        if not isinstance(record, Target):
            return
        try:
            self.targets[name], warning = self._open_target(record, held)
        except (AddressRefusedError, RecordRefusedError, NotAllowedError) as error:
            dirty.errors[key] = str(error)
        else:
            if warning:
                dirty.errors[key] = warning

    def _open_target(self, record: Target, held: TargetFacts | None) -> tuple[TargetFacts, str]:
        """The target, and a sentence if something about it has to be told nevertheless."""
        if not record.name:
            return self._target_at(record, parse_address(record.address)), ""
        failure = self.names.failures.get(record.name, "")
        answer = self.names.answers.get(record.name, ())
        if not answer:
            raise RecordRefusedError(f"target {record.target_id}: {record.name}: {failure or 'is being resolved'}")
        answer = _of_family(record, answer)
        address = held.address if held is not None and held.name == record.name else None
        facts, refusal = self._first_allowed(record, sorted(answer, key=lambda each: each != address))
        if facts is None and address is not None:
            # The name has moved to where nothing may be published from. What is there may be: it stays, and is told.
            facts, failure = self._target_at(record, address), refusal
        if facts is None:
            raise RecordRefusedError(refusal)
        if failure:
            failure = f"target {record.target_id}: {record.name}: {failure}; its last address {facts.address} is kept"
        return facts, failure

    def _first_allowed(self, record: Target, addresses: Iterable[IPAddress]) -> tuple[TargetFacts | None, str]:
        """The target at the first of the addresses that the site permits, or the reason against the last one."""
        refusal = ""
        for address in addresses:
            try:
                return self._target_at(record, address), ""
            except NotAllowedError as error:
                refusal = str(error)
        return None, refusal

    def _target_at(self, record: Target, address: IPAddress) -> TargetFacts:
        if record.agent_last_port < record.agent_port:
            raise RecordRefusedError(f"target {record.target_id}: its port range ends before it begins")
        if record.agent_last_port > record.agent_port != record.port:
            raise RecordRefusedError(f"target {record.target_id}: a port range keeps its numbers")
        last_port = record.port + record.agent_last_port - record.agent_port
        self.allow.check(record.target_id, record.proto, address, record.port, last_port)
        return TargetFacts(
            record.target_id,
            record.proto,
            record.agent_port,
            record.agent_last_port,
            address,
            record.port,
            record.name,
        )

    def _take_revocation(self, record: Revocation, dirty: Dirty) -> None:
        self.epochs.revoke(record)
        held = self.gateways.get(record.node_id)
        if held is not None and held.epoch <= record.epoch:
            self._cut_gateway(record.node_id, dirty)


def _of_family(record: Target, answer: tuple[IPAddress, ...]) -> tuple[IPAddress, ...]:
    """The addresses of the family that the service asks for: gateways know it by the service, not by the name."""
    version = 6 if record.address == IPV6_OF_NAME else 4
    fitting = tuple(address for address in answer if address.version == version)
    if fitting:
        return fitting
    has, way = ("IPv4", "without") if version == 6 else ("IPv6", "with")
    raise RecordRefusedError(
        f"target {record.target_id}: {record.name}: has {has} only; it is taken {way} the option upstream.ipv6"
    )
