"""What the decisions look at: the part of the truth that one write concerns, read in one statement."""

from msgspec import Struct

from kakuremichi.model.ids import NodeId, PoolName, ServiceId
from kakuremichi.model.keys import PublicKey
from kakuremichi.model.options import NO_OPTIONS, Options
from kakuremichi.wire.identity import Role
from kakuremichi.wire.records import Kind, Proto


class Seen(Struct, frozen=True):
    """Base: the database answers with JSON objects of these names."""


class TargetRow(Seen, frozen=True):
    target_id: str
    agent: NodeId
    proto: Proto
    agent_port: int
    agent_last_port: int
    address: str
    port: int


class ServiceRow(Seen, frozen=True):
    service_id: ServiceId
    pool: PoolName
    kind: Kind
    host: str
    path: str
    first_port: int
    last_port: int
    sources: tuple[str, ...]
    updated_seq: int
    targets: tuple[TargetRow, ...] = ()
    options: Options = NO_OPTIONS
    source: str = ""  # nobody's: it was published by hand


class NamedNode(Seen, frozen=True):
    node_id: NodeId
    role: Role
    pool: PoolName
    quarantined: bool = False


class FreedHost(Seen, frozen=True):
    service_id: ServiceId
    until: str


class PortHolder(Seen, frozen=True):
    service_id: ServiceId
    first_port: int
    last_port: int


class TargetHolder(Seen, frozen=True):
    """A live node that makes a target's address unusable: its subnet holds it, or it is its own endpoint."""

    address: str
    node_id: NodeId
    role: Role


class LackingNode(Seen, frozen=True):
    node_id: NodeId
    tags: tuple[str, ...]


class PublishContext(Seen, frozen=True):
    log_id: str
    known_pool: bool
    old: ServiceRow | None
    nodes: tuple[NamedNode, ...]  # live ones among the agents that the targets name
    gateways: tuple[NodeId, ...]  # of the pool, and of the pool that the service is moved from
    lacking: tuple[LackingNode, ...]  # live gateways of the pool that do not know the record's tag
    host_holder: ServiceId | None  # of the same host and path
    host_elsewhere: ServiceId | None  # of the same host in another pool
    freed_host: FreedHost | None
    port_holders: tuple[PortHolder, ...]
    gateway_ports: tuple[int, ...]  # WireGuard ports of the pool's gateways
    target_holders: tuple[TargetHolder, ...]
    agent_port_holders: tuple[PortHolder, ...]  # of a range: who holds its numbers at the target's agent
    free_agent_port: int | None  # there, from the target's first choice on
    heads: dict[str, int]  # feed_seq of the feeds that may be concerned


class UnpublishContext(Seen, frozen=True):
    log_id: str
    old: ServiceRow | None
    gateways: tuple[NodeId, ...]


class TokenRow(Seen, frozen=True):
    token_id: str
    role: Role
    node_id: NodeId
    pool: PoolName


class KnownNode(Seen, frozen=True):
    """A row of any node that ever had the id; `serial` and `epoch` go on where it stopped."""

    node_id: NodeId
    role: Role
    pool: PoolName
    live: bool
    serial: int
    epoch: int
    identity_key: str = ""  # base64
    revoked: bool = False  # for ever, until it is removed too
    updated_seq: int = 0


class FreedSlot(Seen, frozen=True):
    slot: int
    freed_at: float


class EnrolContext(Seen, frozen=True):
    token: TokenRow | None  # only if it is open
    log_id: str
    networks: tuple[str, ...]
    enrolments: int
    node: KnownNode | None
    identity_holder: NodeId | None
    subnets: tuple[tuple[str, int], ...]  # live agents and their subnets' first addresses as numbers
    gateway_networks: tuple[str, ...]
    slots: tuple[int, ...]
    freed_slots: tuple[FreedSlot, ...]
    spent_serial: int = 0  # the highest that was signed for a node of this name and that it never came to


class TokenContext(Seen, frozen=True):
    log_id: str
    node: KnownNode | None


class RemoveContext(Seen, frozen=True):
    log_id: str
    node: KnownNode | None
    announced: bool
    services: tuple[ServiceRow, ...]  # those with a target at the node
    gateways: tuple[NodeId, ...]
    agents: tuple[NodeId, ...]


class UpkeepContext(Seen, frozen=True):
    log_id: str
    node: KnownNode | None
    public_key: PublicKey | None  # None: it has announced none
    quarantined: bool
    lacking: tuple[NodeId, ...]  # live readers of the feed that do not know the record's tag
