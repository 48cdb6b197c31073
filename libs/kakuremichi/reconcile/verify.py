"""The chain of signatures that ends in the trust set pinned at enrolment. What does not fit is noise."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kakuremichi.model.keys import KeyRefusedError, VerifyKey, check_public_key
from kakuremichi.wire import signing
from kakuremichi.wire.codec import WireError, decode
from kakuremichi.wire.identity import Announcement, Certificate, FeedKeyCertificate, Role, TrustSet
from kakuremichi.wire.records import FeedItem, Head
from kakuremichi.wire.signing import DeploymentId, SignatureRefusedError, Signed

CLOCK_TOLERANCE_S = 300


class NotTrustedError(ValueError):
    """Something signed does not lead to the trust set, or contradicts what is signed; a sentence."""


@dataclass(frozen=True, slots=True)
class OpenedItem:
    item: FeedItem
    digest: bytes  # SHA-256 of the body: the next item's prev_hash
    signed: Signed


@dataclass
class Verifier:
    """Opens what is signed. `trust` was pinned at enrolment; the feed key is learned from a certificate by it."""

    deployment: DeploymentId
    trust: TrustSet
    now: Callable[[], float] = time.time
    feed_keys: set[VerifyKey] = field(default_factory=set)

    def learn_feed_key(self, signed: Signed, *, new: bool = True) -> VerifyKey:
        """Believe the key from now on. Dates are judged only if it is `new`: what was believed before stays."""
        body = self._by_trust(signing.FEED_KEY, signed)
        certificate = decode(body, FeedKeyCertificate)
        if new and certificate.key not in self.feed_keys:
            self._check_dates("feed key", certificate.not_before, certificate.not_after)
        self.feed_keys.add(certificate.key)
        return certificate.key

    def item(self, data: bytes) -> OpenedItem:
        return self.signed_item(decode(data, Signed, name="feed item"))

    def signed_item(self, signed: Signed) -> OpenedItem:
        body = self._by_feed_key(signing.FEED_ITEM, signed)
        return OpenedItem(decode(body, FeedItem), hashlib.sha256(body).digest(), signed)

    def head(self, signed: Signed) -> Head:
        return decode(self._by_feed_key(signing.HEAD, signed), Head)

    def head_bytes(self, data: bytes) -> Head:
        return self.head(decode(data, Signed, name="head"))

    def peer(
        self, certificate: Signed, announcement: Signed, role: Role, *, new: bool
    ) -> tuple[Certificate, Announcement]:
        """The node behind a peer record. Dates are judged only if the peer is `new`: what is applied stays."""
        cert = self.certificate(certificate, new=new)
        if cert.role != role:
            raise NotTrustedError(f"certificate of {cert.node_id}: role {cert.role}, {role} is needed")
        said = self._announcement(announcement, cert)
        return cert, said

    def certificate(self, signed: Signed, *, new: bool) -> Certificate:
        cert = decode(self._by_trust(signing.CERTIFICATE, signed), Certificate)
        if new:
            self.check_validity(cert)
        return cert

    def check_validity(self, cert: Certificate) -> None:
        """:class:`NotTrustedError` before and after the dates of a certificate that was opened already."""
        self._check_dates(f"certificate of {cert.node_id}", cert.not_before, cert.not_after)

    def _announcement(self, signed: Signed, cert: Certificate) -> Announcement:
        try:
            body = signing.verify(signing.ANNOUNCEMENT, self.deployment, signed, {cert.identity_key})
        except SignatureRefusedError as error:
            raise NotTrustedError(f"announcement of {cert.node_id}: {error}") from error
        said = decode(body, Announcement)
        if said.node_id != cert.node_id or said.serial != cert.serial:
            raise NotTrustedError(
                f"announcement: by {said.node_id} serial {said.serial},"
                f" the certificate is for {cert.node_id} serial {cert.serial}"
            )
        try:
            check_public_key(said.public_key)
        except KeyRefusedError as error:
            raise NotTrustedError(f"announcement of {cert.node_id}: {error}") from error
        return said

    def _by_trust(self, purpose: str, signed: Signed) -> bytes:
        try:
            return signing.verify(
                purpose, self.deployment, signed, frozenset(self.trust.keys), threshold=self.trust.threshold
            )
        except SignatureRefusedError as error:
            raise NotTrustedError(str(error)) from error

    def _by_feed_key(self, purpose: str, signed: Signed) -> bytes:
        try:
            return signing.verify(purpose, self.deployment, signed, self.feed_keys)
        except SignatureRefusedError as error:
            raise NotTrustedError(str(error)) from error

    def _check_dates(self, what: str, not_before: int, not_after: int) -> None:
        now = self.now()
        if not not_before - CLOCK_TOLERANCE_S <= now <= not_after + CLOCK_TOLERANCE_S:
            raise NotTrustedError(f"{what}: not valid at this time, check the clocks of both sides")


def open_trust_set(deployment: DeploymentId, signed: Signed, pinned: bytes) -> TrustSet:
    """The trust set whose body has the SHA-256 that the join token carried; it must also be signed by itself."""
    if hashlib.sha256(signed.body).digest() != pinned:
        raise NotTrustedError("trust set: not the one that the join token names")
    trust = decode(signed.body, TrustSet)
    try:
        signing.verify(signing.TRUST_SET, deployment, signed, frozenset(trust.keys), threshold=trust.threshold)
    except SignatureRefusedError as error:
        raise NotTrustedError(f"trust set: {error}") from error
    return trust


__all__ = ["NotTrustedError", "OpenedItem", "Verifier", "WireError", "open_trust_set"]
