"""Whether an announcement is sound: form, key, certificate, signature. Pure.

Order and uniqueness are decided by the registry.
"""

from dataclasses import dataclass

from kakuremichi.model.addresses import AddressRefusedError, Endpoint, parse_endpoint
from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import KeyRefusedError, check_public_key
from kakuremichi.wire import signing
from kakuremichi.wire.codec import WireError, decode
from kakuremichi.wire.identity import Announcement, Certificate, TrustSet
from kakuremichi.wire.signing import DeploymentId, SignatureRefusedError, Signed


class AnnouncementRefusedError(ValueError):
    """The announcement is not sound; the text is a sentence, `code` is one of `requests.KeyRefused`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class OutdatedError(AnnouncementRefusedError):
    """It goes with another certificate than the one at hand, which may be the old one."""


@dataclass(frozen=True, slots=True)
class Known:
    """Who a node is, by the word of the trust keys."""

    deployment: DeploymentId
    certificate: Certificate


def open_certificate(deployment: DeploymentId, trust: Signed, certificate: Signed) -> Known:
    """The certificate, once the trust set has signed itself and it; :class:`AnnouncementRefusedError` if not."""
    try:
        keys = decode(trust.body, TrustSet)
        signing.verify(signing.TRUST_SET, deployment, trust, frozenset(keys.keys), threshold=keys.threshold)
        body = signing.verify(
            signing.CERTIFICATE, deployment, certificate, frozenset(keys.keys), threshold=keys.threshold
        )
        return Known(deployment, decode(body, Certificate))
    except (SignatureRefusedError, WireError) as error:
        raise AnnouncementRefusedError("bad-signature", f"certificate: {error}") from error


def read(signed: Signed, node: NodeId) -> Announcement:
    """What the node `node` says, its form checked; the signature is not, it needs the certificate."""
    try:
        said = decode(signed.body, Announcement)
    except WireError as error:
        raise AnnouncementRefusedError("malformed", str(error)) from error
    if said.node_id != node:
        raise AnnouncementRefusedError("malformed", f"announcement: of {said.node_id}, came from {node}")
    if not any(said.public_key):
        raise AnnouncementRefusedError("zero-key", "public key: all bytes are zero")
    try:
        check_public_key(said.public_key)
    except KeyRefusedError as error:
        raise AnnouncementRefusedError("low-order", str(error)) from error
    return said


def check(signed: Signed, said: Announcement, known: Known, now: float) -> tuple[Endpoint, ...]:
    """The endpoints, once certificate and signature fit; :class:`OutdatedError` if the certificate may be old."""
    certificate = known.certificate
    if said.serial != certificate.serial:
        raise OutdatedError(
            "unknown-node",
            f"announcement of {said.node_id}: goes with certificate {said.serial}, {certificate.serial} is the last",
        )
    try:
        signing.verify(signing.ANNOUNCEMENT, known.deployment, signed, {certificate.identity_key})
    except SignatureRefusedError as error:
        # A node that was enrolled anew has another identity key and, by chance, may have the same serial in a cache.
        raise OutdatedError("bad-signature", f"announcement of {said.node_id}: {error}") from error
    if said.public_key == certificate.sealing_key:
        raise AnnouncementRefusedError("held", f"public key of {said.node_id}: is its sealing key; make another one")
    if now > certificate.not_after:
        raise AnnouncementRefusedError(
            "unknown-node", f"certificate of {said.node_id}: expired; it needs its next one, see its warnings"
        )
    return endpoints(said, certificate)


def endpoints(said: Announcement, certificate: Certificate) -> tuple[Endpoint, ...]:
    """Gateways have one or more, agents none: they open no port at their site."""
    if certificate.role == "agent":
        if said.endpoints:
            raise AnnouncementRefusedError("malformed", "endpoints: an agent announces none")
        return ()
    if not said.endpoints:
        raise AnnouncementRefusedError("malformed", "endpoints: a gateway announces at least one, IP:PORT")
    try:
        found = tuple(parse_endpoint(text) for text in said.endpoints)
    except AddressRefusedError as error:
        raise AnnouncementRefusedError("malformed", str(error)) from error
    for endpoint in found:
        if endpoint.address.is_link_local:
            raise AnnouncementRefusedError("malformed", f"endpoint {endpoint}: nobody reaches a link-local address")
    return found
