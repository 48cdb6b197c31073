"""Facts: what has happened. Past tense; the tag carries the version. Time, actor and sequence stand in the log row."""

from msgspec import Struct

from kakuremichi.model.ids import NodeId, PoolName, ServiceId
from kakuremichi.wire.identity import Role


class Fact(Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    """Base of what the log keeps. Written as JSON: auditors read it with any tool, for ever."""


class TokenCreated(Fact, frozen=True, kw_only=True, tag="token.created.v1"):
    token_id: str  # first characters of the hash; the token itself is nowhere
    role: Role
    node_id: NodeId
    pool: PoolName
    expires_at: str  # RFC 3339


class NodeEnrolled(Fact, frozen=True, kw_only=True, tag="node.enrolled.v1"):
    node_id: NodeId
    role: Role
    pool: PoolName
    slot: int
    subnet: str
    identity_key: str  # base64
    serial: int
    token_id: str
    networks: tuple[str, ...]


class KeyAnnounced(Fact, frozen=True, kw_only=True, tag="key.announced.v1"):
    node_id: NodeId
    public_key: str  # base64
    epoch: int
    endpoints: tuple[str, ...]


class NodeRemoved(Fact, frozen=True, kw_only=True, tag="node.removed.v1"):
    node_id: NodeId
    role: Role
    pool: PoolName
    epoch: int
    services: tuple[ServiceId, ...]  # those that lost their last target


class TargetSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    target_id: str
    agent: NodeId
    agent_port: int
    address: str
    port: int


class ServicePublished(Fact, frozen=True, kw_only=True, tag="service.published.v1"):
    """Also when it was changed: the fact is whole."""

    service_id: ServiceId
    pool: PoolName
    kind: str
    host: str
    path: str
    first_port: int
    last_port: int
    sources: tuple[str, ...]
    targets: tuple[TargetSpec, ...]


class ServiceUnpublished(Fact, frozen=True, kw_only=True, tag="service.unpublished.v1"):
    service_id: ServiceId
    pool: PoolName


AnyFact = TokenCreated | NodeEnrolled | KeyAnnounced | NodeRemoved | ServicePublished | ServiceUnpublished


class LoggedFact(Struct, frozen=True, kw_only=True):
    """One row of the log as `audit.<topic>` carries it, in JSON.

    `hash` is SHA-256(0x00, `prev`, u64 `seq`, then `topic`, `actor`, `at` and `fact`, each after its length as u32).
    """

    log_id: str
    seq: int
    prev: str  # hex
    hash: str  # hex
    topic: str
    actor: str
    at: str  # RFC 3339, UTC, microseconds
    fact: str  # the fact's JSON as text, byte for byte what is under the hash
