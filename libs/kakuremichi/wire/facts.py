"""Facts: what has happened. Past tense; the tag carries the version. Time, actor and sequence stand in the log row."""

from msgspec import UNSET, Struct, UnsetType

from kakuremichi.model.ids import NodeId, PoolName, ServiceId
from kakuremichi.model.options import Options
from kakuremichi.wire.identity import Role


class Fact(Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    """Base of what the log keeps. Written as JSON: auditors read it with any tool, for ever."""


class TokenCreated(Fact, frozen=True, kw_only=True, tag="token.created.v1"):
    token_id: str  # first characters of the hash; the token itself is nowhere
    role: Role
    node_id: NodeId
    pool: PoolName
    expires_at: str  # RFC 3339


class NodeEnrolled(Fact, frozen=True, kw_only=True, omit_defaults=True, tag="node.enrolled.v1"):
    node_id: NodeId
    role: Role
    pool: PoolName
    slot: int
    subnet: str
    identity_key: str  # base64
    serial: int
    token_id: str
    networks: tuple[str, ...]
    endpoints: tuple[str, ...] = ()
    pending: bool = False  # its certificate waits for trust keys that do not lie on the server
    certificate: str = ""  # base64 of the signed certificate, as sent; logs of the first releases lack it


class NodeCertified(Fact, frozen=True, kw_only=True, omit_defaults=True, tag="node.certified.v1"):
    """Trust keys that do not lie on the server signed its certificate; with `needed` of them it holds."""

    node_id: NodeId
    serial: int
    hosts: tuple[str, ...]
    ports: tuple[str, ...]
    signatures: int
    needed: int
    certificate: str = ""  # base64, with the signatures that it has now


class NodeRenewed(Fact, frozen=True, kw_only=True, tag="node.renewed.v1"):
    """A node's next certificate was proposed, or signed by one more trust key. The node has another one until it
    announces its key with this.
    """

    node_id: NodeId
    serial: int
    hosts: tuple[str, ...]
    ports: tuple[str, ...]
    signatures: int
    needed: int
    certificate: str  # base64, with the signatures that it has now


class KeyAnnounced(Fact, frozen=True, kw_only=True, omit_defaults=True, tag="key.announced.v1"):
    node_id: NodeId
    public_key: str  # base64
    epoch: int
    endpoints: tuple[str, ...]
    announcement: str = ""  # base64 of the node's own signed words, as they came
    certificate: str = ""  # base64, if the node has come to its next one


class NodeRemoved(Fact, frozen=True, kw_only=True, tag="node.removed.v1"):
    node_id: NodeId
    role: Role
    pool: PoolName
    epoch: int
    services: tuple[ServiceId, ...]  # those that lost their last target


class NodeRevoked(Fact, frozen=True, kw_only=True, tag="node.revoked.v1"):
    """Its keys up to `epoch`, its identity and its access to the bus are worth nothing any more, for ever."""

    node_id: NodeId
    role: Role
    pool: PoolName
    epoch: int
    identity_key: str  # base64
    services: tuple[ServiceId, ...]  # those that lost their last target


class RotationRequested(Fact, frozen=True, kw_only=True, tag="rotation.requested.v1"):
    """A node was asked for a new key; the `key.announced` that follows says that it made one."""

    node_id: NodeId
    role: Role
    pool: PoolName
    request_id: str
    public_key: str  # base64, the key that is to be replaced


class NodeQuarantined(Fact, frozen=True, kw_only=True, tag="node.quarantined.v1"):
    """Two holders of one identity: this announcement does not follow the one that stands."""

    node_id: NodeId
    role: Role
    pool: PoolName
    epoch: int  # of the announcement that stands
    said_epoch: int
    boot_id: str  # hex, of the boot that made the announcement that stands
    said_boot_id: str  # hex
    public_key: str  # base64, the one that stands
    said_public_key: str  # base64


class NodeReleased(Fact, frozen=True, kw_only=True, tag="node.released.v1"):
    """Somebody saw to it that one holder is left: the next announcement begins a new chain."""

    node_id: NodeId
    role: Role
    pool: PoolName


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
    options: Options | UnsetType = UNSET  # unset is none
    source: str | UnsetType = UNSET  # the declarative file that it comes from; unset is nobody's


class ServiceUnpublished(Fact, frozen=True, kw_only=True, tag="service.unpublished.v1"):
    service_id: ServiceId
    pool: PoolName


class SetupOpened(Fact, frozen=True, kw_only=True, tag="setup.opened.v1"):
    """Whoever has the code may make the first account."""

    expires_at: str  # RFC 3339


class AccountCreated(Fact, frozen=True, kw_only=True, tag="account.created.v1"):
    account: str
    label: str
    role: str
    pools: tuple[str, ...]  # empty: all
    agents: tuple[str, ...]
    subject: str  # at an OIDC provider; "" if it is known here only
    disabled: bool


class AccountChanged(Fact, frozen=True, kw_only=True, tag="account.changed.v1"):
    """Whole, as it is from now on."""

    account: str
    label: str
    role: str
    pools: tuple[str, ...]
    agents: tuple[str, ...]
    subject: str
    disabled: bool
    password_changed: bool


class AccountRemoved(Fact, frozen=True, kw_only=True, tag="account.removed.v1"):
    account: str


class PersonSignedIn(Fact, frozen=True, kw_only=True, tag="person.signed-in.v1"):
    who: str  # person/ACCOUNT, or the name of an API token
    session_id: str
    method: str  # password, oidc or api-token
    source: str  # address


class PersonSignedOut(Fact, frozen=True, kw_only=True, tag="person.signed-out.v1"):
    who: str
    session_id: str


class SessionsEnded(Fact, frozen=True, kw_only=True, tag="session.ended.v1"):
    """By somebody's decision; a session that ends with its time is no event."""

    sessions: tuple[tuple[str, str], ...]  # (who, session id)


class ApiTokenCreated(Fact, frozen=True, kw_only=True, tag="api-token.created.v1"):
    name: str
    scope: str
    pools: tuple[str, ...]
    agents: tuple[str, ...]
    expires_at: str


class ApiTokenRemoved(Fact, frozen=True, kw_only=True, tag="api-token.removed.v1"):
    name: str


class LogRetired(Fact, frozen=True, kw_only=True, tag="log.retired.v1"):
    """Rows of the log have left the registry's database with an export, under a checkpoint that gateways signed too."""

    first: int  # the first of them
    last: int
    hash: str  # hex, of row `last` in the chain
    root: str  # hex, of the tree over rows 1 to `last`
    checkpoint: str  # base64, signed: the one that covers them
    checkpoint_size: int
    witnesses: tuple[NodeId, ...]  # gateways whose signatures for it are in the export
    export_sha256: str  # hex, of the file
    state_sha256: str  # hex, of the state after row `last` as exports carry it


AnyFact = (
    TokenCreated
    | NodeEnrolled
    | NodeCertified
    | NodeRenewed
    | KeyAnnounced
    | NodeRemoved
    | NodeRevoked
    | RotationRequested
    | NodeQuarantined
    | NodeReleased
    | ServicePublished
    | ServiceUnpublished
    | SetupOpened
    | AccountCreated
    | AccountChanged
    | AccountRemoved
    | PersonSignedIn
    | PersonSignedOut
    | SessionsEnded
    | ApiTokenCreated
    | ApiTokenRemoved
    | LogRetired
)


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
