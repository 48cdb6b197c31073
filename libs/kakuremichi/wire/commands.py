"""What the portal asks of the registry: commands and queries, with their answers. Decoded strictly."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from kakuremichi.model.ids import NodeIdField, PoolNameField, ServiceIdField, SourceField
from kakuremichi.model.keys import PublicKeyField, VerifyKeyField
from kakuremichi.model.options import Options
from kakuremichi.wire.identity import Hash, Role
from kakuremichi.wire.plans import FeedReaders, PlannedChange
from kakuremichi.wire.records import Kind
from kakuremichi.wire.signing import Signed

IdempotencyKey = Annotated[str, Meta(max_length=128)]
Text = Annotated[str, Meta(max_length=512)]


class Command(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Base: who asks (an authenticated person or program) and, for writes, under which idempotency key."""

    actor: Text
    idempotency_key: IdempotencyKey = ""


class Terms(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """On which terms something is to be written. One field of the commands: a sixteenth would change every header.

    `dry_run`: by the same rules, and the answer is a `Plan`. `if_match`: its last change has to be one of these, 0 is
    any. `source`: the declarative file that a service comes from; who names none is a person, and the service keeps
    its source. `adopt`: the source that it may be taken from, "" being nobody's.
    """

    dry_run: bool = False
    if_match: Annotated[tuple[int, ...], Meta(max_length=16)] | UnsetType = UNSET
    source: SourceField | UnsetType = UNSET
    adopt: Text | UnsetType = UNSET


class Write(Command, frozen=True, kw_only=True):
    """Base of what people change."""

    terms: Terms | UnsetType = UNSET


class CreateToken(Write, frozen=True, kw_only=True, tag="create-token.v1"):
    role: Role
    node_id: NodeIdField
    pool: PoolNameField
    secret_hash: Hash  # SHA-256; the portal made the secret and shows it once, it never crosses the bus
    ttl_s: Annotated[int, Meta(ge=1, le=3600)] = 3600


class EnrolNode(Command, frozen=True, kw_only=True, tag="enrol-node.v1"):
    secret_hash: Hash
    identity_key: VerifyKeyField
    sealing_key: PublicKeyField
    networks: Annotated[tuple[Text, ...], Meta(max_length=128)]  # CIDR; what the host uses already
    endpoints: Annotated[tuple[Text, ...], Meta(max_length=8)]  # gateways: "IP:port"
    source: Text  # the address that the request came from


class RenewAccess(Command, frozen=True, kw_only=True, tag="renew-access.v1"):
    """A node without credentials of the bus asks for some, by way of the portal."""

    renewal: Signed  # Renewal, by the node's identity key
    source: Text


class RemoveNode(Write, frozen=True, kw_only=True, tag="remove-node.v1"):
    node_id: NodeIdField
    role: Role
    cascade: bool = False


class RevokeNode(Write, frozen=True, kw_only=True, tag="revoke-node.v1"):
    """Cut it off everywhere and for ever; its services stay, without a target there."""

    node_id: NodeIdField
    role: Role


class RotateNode(Write, frozen=True, kw_only=True, tag="rotate-node.v1"):
    """Ask the node for a new WireGuard key."""

    node_id: NodeIdField
    role: Role


class ReleaseNode(Write, frozen=True, kw_only=True, tag="release-node.v1"):
    """End a quarantine: only one holder of the identity is left."""

    node_id: NodeIdField
    role: Role


class TargetInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A private service as the agent's site sees it: an address or a name that the site resolves; default the agent."""

    agent: NodeIdField
    address: Text = "127.0.0.1"
    port: int


class PublishService(Write, frozen=True, kw_only=True, tag="publish-service.v1"):
    """Create, or replace whole: `create_only` makes an existing service a conflict."""

    service_id: ServiceIdField
    pool: PoolNameField
    kind: Kind
    host: str = ""
    path: str = ""
    first_port: int = 0
    last_port: int = 0
    sources: tuple[str, ...] = ()
    targets: tuple[TargetInput, ...] = ()
    create_only: bool = False
    options: Options | UnsetType = UNSET  # unset is none


class UnpublishService(Write, frozen=True, kw_only=True, tag="unpublish-service.v1"):
    service_id: ServiceIdField


class Listing(Command, frozen=True, kw_only=True):
    """Base of the lists: at most so many, and only those."""

    limit: Annotated[int, Meta(ge=1, le=1000)] | UnsetType = UNSET
    pool: Text | UnsetType = UNSET
    state: Text | UnsetType = UNSET


class ListNodes(Listing, frozen=True, kw_only=True, tag="list-nodes.v1"):
    role: Role
    after: Text = ""  # `next_after` of the page before
    node_id: Text = ""  # only this one


class ListServices(Listing, frozen=True, kw_only=True, tag="list-services.v1"):
    after: Text = ""
    service_id: Text = ""  # only this one
    kind: Text | UnsetType = UNSET
    agent: Text | UnsetType = UNSET
    host: Text | UnsetType = UNSET
    source: Text | UnsetType = UNSET


class ListTokens(Listing, frozen=True, kw_only=True, tag="list-tokens.v1"):
    after: Text = ""


class ListEvents(Command, frozen=True, kw_only=True, tag="list-events.v1"):
    after: Annotated[int, Meta(ge=0)] = 0
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    newest_first: bool = False
    trace_id: Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")] | UnsetType = UNSET  # of this trace, newest rows only


class ListPositions(Command, frozen=True, kw_only=True, tag="list-positions.v1"):
    """How far the feeds came by an event, or by each of the newest: what nodes have to have applied."""

    seq: Annotated[int, Meta(ge=0)] = 0  # 0: the newest
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class ListPending(Command, frozen=True, kw_only=True, tag="list-pending.v1"):
    """The certificates that wait for trust keys which do not lie on the server."""

    after: Text | UnsetType = UNSET  # `next_after` of the page before
    limit: Annotated[int, Meta(ge=1, le=1000)] | UnsetType = UNSET


class SubmitGrant(Write, frozen=True, kw_only=True, tag="submit-grant.v1"):
    """One such certificate, signed; together with the signatures that it has, it may be complete."""

    certificate: Signed


AnyCommand = (
    CreateToken
    | EnrolNode
    | RenewAccess
    | RemoveNode
    | RevokeNode
    | RotateNode
    | ReleaseNode
    | PublishService
    | UnpublishService
    | ListNodes
    | ListServices
    | ListTokens
    | ListEvents
    | ListPositions
    | ListPending
    | SubmitGrant
)


class Result(Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of the answers."""


class FeedPosition(Struct, frozen=True, kw_only=True):
    feed: str
    feed_seq: int
    nodes: tuple[NodeIdField, ...]  # who reads this feed


class Written(Result, frozen=True, kw_only=True, tag="written.v1"):
    """A write stands: the log's sequence, and how far the feeds that it touched have to come."""

    seq: int
    log_id: str
    positions: tuple[FeedPosition, ...]
    changed: bool = True  # False: the same request was answered before, or nothing was to change
    token_id: str = ""
    expires_at: str = ""


class Plan(Result, frozen=True, kw_only=True, tag="plan.v1"):
    """What a write would do. `changed` is False if everything is so already."""

    changed: bool
    changes: tuple[PlannedChange, ...]
    readers: tuple[FeedReaders, ...]
    left_out: int = 0  # more changes than one answer can hold


class Enrolled(Result, frozen=True, kw_only=True, omit_defaults=True, tag="enrolled.v1"):
    deployment: bytes
    certificate: Signed
    trust: Signed
    feed_key: Signed
    endpoints: tuple[str, ...]
    bus_jwt: str = ""  # made for each answer, never kept


class EnrolmentWaiting(Result, frozen=True, kw_only=True, tag="enrolment-waiting.v1"):
    """The node has its name and address; trust keys that lie elsewhere have yet to sign. It asks again."""

    node_id: str


class PendingCertificates(Result, frozen=True, kw_only=True, omit_defaults=True, tag="pending-certificates.v1"):
    deployment: bytes
    trust: Signed
    certificates: tuple[Signed, ...]
    former: tuple[Signed, ...] = ()  # of nodes whose next one waits: those that they have, signed already
    next_after: str = ""  # there is more: ask again with `after`


class GrantTaken(Result, frozen=True, kw_only=True, tag="grant-taken.v1"):
    node_id: str
    signatures: int
    needed: int


class AccessRenewed(Result, frozen=True, kw_only=True, tag="access-renewed.v1"):
    jwt: str


class Problem(Result, frozen=True, kw_only=True, tag="problem.v1"):
    """A refusal. `status` is the HTTP status that fits it; `field` names what would have to be different."""

    status: int
    code: str
    detail: str
    field: str = ""
    holders: tuple[str, ...] = ()  # 409: who holds what was asked for, or what stands in the way
    current_seq: int | UnsetType = UNSET  # 412: its last change; 0 if there is none


class EventPositions(Struct, frozen=True, kw_only=True):
    seq: int
    at: str
    topic: str
    trace_id: str
    positions: tuple[tuple[str, int], ...]  # feed, and its feed_seq with the last item of this event


class Positions(Result, frozen=True, kw_only=True, tag="positions.v1"):
    """Newest first. Items of feeds are kept for a while only: an older event is without."""

    log_id: str
    items: tuple[EventPositions, ...]


class NodeView(Struct, frozen=True, kw_only=True):
    node_id: str
    role: Role
    pool: str
    slot: int
    subnet: str
    endpoints: tuple[str, ...]
    public_key: str  # base64, "" before the first announcement
    epoch: int
    state: Literal["pending", "enrolled", "live", "offline", "quarantined", "revoked"]
    last_report_at: str  # RFC 3339, "" if never
    cursors: tuple[tuple[str, int], ...]
    behind: int  # items of its feeds that it has not reported as applied
    errors: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    version: str


class TargetView(Struct, frozen=True, kw_only=True):
    target_id: str
    agent: str
    address: str
    port: int
    agent_port: int


class ServiceView(Struct, frozen=True, kw_only=True):
    service_id: str
    pool: str
    kind: Kind
    host: str
    path: str
    first_port: int
    last_port: int
    sources: tuple[str, ...]
    targets: tuple[TargetView, ...]
    state: Literal["active", "no-target"]
    carried_by: Literal["nftables", "haproxy"]
    updated_seq: int
    errors: tuple[tuple[str, str], ...]  # (node, sentence)
    options: Options | UnsetType = UNSET  # unset is none
    source: str | UnsetType = UNSET  # unset is nobody's


class TokenView(Struct, frozen=True, kw_only=True):
    token_id: str
    role: Role
    node_id: str
    pool: str
    expires_at: str
    state: Literal["open", "used", "expired"]


class EventView(Struct, frozen=True, kw_only=True):
    seq: int
    at: str
    actor: str
    topic: str
    fact: str  # the fact as JSON text, as it stands in the log
    trace_id: str
    head: str  # hex, the chain's hash after this row


class Nodes(Result, frozen=True, kw_only=True, tag="nodes.v1"):
    items: tuple[NodeView, ...]
    next_after: str = ""  # there is more: ask again with `after`
    updated_seqs: tuple[int, ...] | UnsetType = UNSET  # of each item, the event of its last change


class Services(Result, frozen=True, kw_only=True, tag="services.v1"):
    items: tuple[ServiceView, ...]
    next_after: str = ""  # there is more: ask again with `after`


class Tokens(Result, frozen=True, kw_only=True, tag="tokens.v1"):
    items: tuple[TokenView, ...]
    next_after: str = ""  # there is more: ask again with `after`


class Events(Result, frozen=True, kw_only=True, tag="events.v1"):
    items: tuple[EventView, ...]
    next_after: int | UnsetType = UNSET  # there is more


AnyResult = (
    Written
    | Plan
    | Enrolled
    | EnrolmentWaiting
    | AccessRenewed
    | PendingCertificates
    | GrantTaken
    | Problem
    | Nodes
    | Services
    | Tokens
    | Events
    | Positions
)
