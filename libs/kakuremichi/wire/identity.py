"""Who is who: the trust set, certificates of nodes and of the feed key, and a node's announcement of its key."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from kakuremichi.model.ids import NodeIdField, PoolNameField
from kakuremichi.model.keys import PublicKeyField, VerifyKeyField

Role = Literal["gateway", "agent"]
Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
NO_HASH = bytes(32)


class Strict(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """Base of what is signed: a reader that ignored a field might grant what the field withheld."""


class TrustSet(Strict, frozen=True, kw_only=True, tag="trust-set.v1"):
    """The keys that say who is a peer, and how many of them have to agree."""

    version: Annotated[int, Meta(ge=1)]
    keys: Annotated[tuple[VerifyKeyField, ...], Meta(min_length=1, max_length=16)]
    threshold: Annotated[int, Meta(ge=1, le=16)]


class FeedKeyCertificate(Strict, frozen=True, kw_only=True, tag="feed-key.v1"):
    """The trust keys' word that this key may order and narrow the feeds of the deployment."""

    key: VerifyKeyField
    serial: Annotated[int, Meta(ge=1)]
    not_before: int  # Unix seconds
    not_after: int  # Unix seconds


class Certificate(Strict, frozen=True, kw_only=True, tag="certificate.v1"):
    """What a node is and what may be routed to it. Signed by the trust keys; `serial` never repeats for a node."""

    node_id: NodeIdField
    role: Role
    pool: PoolNameField
    slot: Annotated[int, Meta(ge=0, le=99)]  # gateways: 1 to 99; agents: 0
    subnet: str  # agents: their /24 in CIDR form; gateways: ""
    subnet6: str  # agents: their /64, "" while the deployment has none; gateways: ""
    identity_key: VerifyKeyField
    sealing_key: PublicKeyField
    hosts: tuple[str, ...]  # host names that may be routed to it; "*" is any
    ports: tuple[str, ...]  # public ports, "443" or "6000-6100"; "*" is any
    serial: Annotated[int, Meta(ge=1)]
    not_before: int  # Unix seconds
    not_after: int  # Unix seconds; gates new facts only, nothing applied is removed when it passes


class Announcement(Strict, frozen=True, kw_only=True, tag="announcement.v1"):
    """A node's WireGuard public key, said by the node itself."""

    node_id: NodeIdField
    serial: Annotated[int, Meta(ge=1)]  # of the certificate that it goes with
    public_key: PublicKeyField
    epoch: Annotated[int, Meta(ge=1, le=2**63 - 1)]  # max(last + 1, Unix ms): grows with every new key
    boot_id: Annotated[bytes, Meta(min_length=16, max_length=16)]
    endpoints: Annotated[tuple[str, ...], Meta(max_length=8)]  # gateways: "IP:port"; agents: none
    previous: Hash  # SHA-256 of the body of the announcement before, zeros for the first


class Renewal(Strict, frozen=True, kw_only=True, tag="renewal.v1"):
    """A node's wish for new credentials of the bus, signed by its identity key."""

    node_id: NodeIdField
    serial: Annotated[int, Meta(ge=1)]  # of its certificate
    at: int  # Unix seconds
    nonce: Annotated[bytes, Meta(min_length=16, max_length=16)]  # no two requests are the same bytes
