"""What the HTTP API takes and gives, as structs: the decoder, the encoder and the OpenAPI document all read these.

Requests are strict, unknown fields are refused. Answers may gain fields; clients ignore what they do not know.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from kakuremichi.declarative.spec import DEFAULT_POOL, Input, ServiceSpec
from kakuremichi.model.ids import NodeIdField, PoolNameField, ServiceIdField, SourceField
from kakuremichi.model.options import NO_OPTIONS, Options
from kakuremichi.wire.identity import Role
from kakuremichi.wire.records import Kind


class ServiceIn(ServiceSpec, frozen=True, kw_only=True):
    name: Annotated[ServiceIdField | None, Meta(description="Needed to create; with PUT the path names it.")] = None
    source: Annotated[
        SourceField | None,
        Meta(description="The declarative file that it comes from; null: published by hand, it keeps its source."),
    ] = None


class TokenIn(Input, frozen=True, kw_only=True):
    role: Role
    node: NodeIdField
    pool: PoolNameField = DEFAULT_POOL  # type: ignore[assignment]
    ttl_s: Annotated[int, Meta(ge=1, le=3600, description="How long the token may be used, in seconds.")] = 3600


class NodeError(Struct, frozen=True, kw_only=True):
    """Something that one node could not apply."""

    node: str
    message: str


class KeyedError(Struct, frozen=True, kw_only=True):
    key: str
    message: str


class Target(Struct, frozen=True, kw_only=True):
    id: str
    agent: str
    address: str
    port: int
    agent_port: Annotated[int, Meta(description="The port on the agent's tunnel address, given by the registry.")]


class Service(Struct, frozen=True, kw_only=True):
    name: str
    kind: Kind
    pool: str
    host: str
    path: str
    port: int
    last_port: int
    sources: tuple[str, ...]
    targets: tuple[Target, ...]
    state: Literal["active", "no-target"]
    carried_by: Annotated[
        Literal["nftables", "haproxy"], Meta(description="`nftables` has no listening socket on the gateway.")
    ]
    errors: tuple[NodeError, ...]
    updated_seq: Annotated[int, Meta(description="Where in the log it was last changed.")]
    options: Options = NO_OPTIONS
    source: Annotated[str, Meta(description="The declarative file that it comes from; empty: by hand.")] = ""


class Node(Struct, frozen=True, kw_only=True):
    """A gateway (`slot` 1 to 99, no `subnet`) or an agent (`slot` 0, its /24)."""

    name: str
    role: Role
    pool: str
    slot: int
    subnet: str
    endpoints: tuple[str, ...]
    public_key: str
    epoch: int
    state: Literal["pending", "enrolled", "live", "offline", "quarantined", "revoked"]
    last_report_at: str
    behind: Annotated[int, Meta(description="Changes of its feeds that it has not reported as applied.")]
    errors: tuple[KeyedError, ...]
    warnings: tuple[str, ...]
    version: str
    updated_seq: Annotated[int, Meta(description="Where in the log it was last changed.")] = 0


class Token(Struct, frozen=True, kw_only=True):
    id: str
    role: Role
    node: str
    pool: str
    expires_at: str
    state: Literal["open", "used", "expired"]


class Event(Struct, frozen=True, kw_only=True):
    seq: int
    at: str
    actor: str
    topic: str
    fact: Annotated[msgspec.Raw, Meta(description="The fact as it stands in the log.")]
    trace_id: str
    head: Annotated[str, Meta(description="Hex; the log's hash chain after this row.")]


class Listed(Struct, frozen=True, kw_only=True):
    """Base of the lists."""

    next_after: Annotated[str, Meta(description="There is more: ask again with `after`. Empty: this is all.")] = ""


class Services(Listed, frozen=True, kw_only=True):
    items: tuple[Service, ...]


class Nodes(Listed, frozen=True, kw_only=True):
    items: tuple[Node, ...]


class Tokens(Listed, frozen=True, kw_only=True):
    items: tuple[Token, ...]


class Events(Listed, frozen=True, kw_only=True):
    items: tuple[Event, ...]


class AppliedOn(Struct, frozen=True, kw_only=True):
    node: str
    ms: Annotated[float, Meta(description="From the request's arrival to that of the node's report.")]


class WriteAnswer(Struct, frozen=True, kw_only=True):
    name: str
    seq: Annotated[int, Meta(description="Where in the log the change stands.")]
    log_id: str
    changed: Annotated[bool, Meta(description="False if everything was so already, or the request is a repetition.")]
    trace_id: str


class AppliedAnswer(WriteAnswer, frozen=True, kw_only=True):
    """With `wait=applied`: how far the write has come at the nodes that it concerns. It stands in any case."""

    applied: tuple[AppliedOn, ...]
    pending: Annotated[tuple[str, ...], Meta(description="Live, and not applied yet.")]
    offline: Annotated[tuple[str, ...], Meta(description="No report for 90 s; they apply it when they return.")]
    gateways: Annotated[tuple[str, ...], Meta(description="Which of the nodes above are gateways.")]
    errors: Annotated[tuple[NodeError, ...], Meta(description="Why a pending node could not apply it.")]


class PlannedChange(Struct, frozen=True, kw_only=True):
    """What one node would have to do."""

    node: str
    kind: Annotated[
        str, Meta(description="`route`, `port`, `target`, `peer`, `revocation`, `rotation`, `certificate`.")
    ]
    key: str
    action: Literal["add", "change", "remove"]
    what: Annotated[str, Meta(description="The same for people.")]


class Plan(Struct, frozen=True, kw_only=True):
    """With `dry_run=1`: the write would be accepted, and this is what would come of it. Nothing was written."""

    name: str
    changed: Annotated[bool, Meta(description="False if everything is so already.")]
    changes: tuple[PlannedChange, ...]
    left_out: Annotated[int, Meta(description="So many more changes than one answer can hold.")]


class TokenCreated(Struct, frozen=True, kw_only=True):
    id: str
    token: Annotated[str, Meta(description="Shown here and never again.")]
    role: Role
    node: str
    pool: str
    expires_at: str

    def __repr__(self) -> str:
        return f"TokenCreated(id={self.id!r}, token=hidden)"


class Health(Struct, frozen=True, kw_only=True):
    status: Literal["ok", "unavailable"]
    detail: str = ""


class Problem(Struct, frozen=True, kw_only=True):
    """RFC 9457. `field` names what would have to be different, `holders` who stands in the way."""

    type: str
    title: str
    status: int
    detail: str
    field: str = ""
    holders: tuple[str, ...] = ()
    trace_id: str = ""
