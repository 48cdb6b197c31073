"""What the keyring asks of the registry about keys of nodes, with the answers. Decoded strictly."""

from typing import Annotated

from msgspec import Meta, Struct

from kakuremichi.model.ids import NodeIdField
from kakuremichi.wire.requests import MOST_BEFORE
from kakuremichi.wire.signing import Signed


class AcceptKey(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag="accept-key.v1"):
    """The keyring asks the registry's transaction to decide about an announcement that it found sound."""

    announcement: Signed


class AcceptKeyAfter(
    Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag="accept-key.v2"
):
    """The same with what the node made before it, newest first; the keyring has not looked at those."""

    announcement: Signed
    before: Annotated[tuple[Signed, ...], Meta(max_length=MOST_BEFORE)]


class GetCertificate(
    Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag="get-certificate.v1"
):
    """The keyring asks who a node is; the answer is `NodeCertificate`, or `KeyRefused` of code unknown-node."""

    node_id: NodeIdField


class GetCertificateOf(
    Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag="get-certificate.v2"
):
    """The same for the certificate of this serial: a node may have its next one before the registry has seen that."""

    node_id: NodeIdField
    serial: Annotated[int, Meta(ge=1)]


AnyKeyRequest = AcceptKey | AcceptKeyAfter | GetCertificate | GetCertificateOf


class NodeCertificate(Struct, frozen=True, kw_only=True, array_like=True, tag="node-certificate.v1"):
    """A live node's certificate and what it is judged by."""

    deployment: Annotated[bytes, Meta(min_length=16, max_length=16)]
    trust: Signed
    certificate: Signed
