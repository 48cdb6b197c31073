"""Whose word a checkpoint is: from the trust set to the feed key, and to the certificates of witnesses. Pure."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from kakuremichi.audit.export import CheckpointLine, CoverLine, Header
from kakuremichi.model.keys import VerifyKey
from kakuremichi.wire import signing
from kakuremichi.wire.checkpoints import CHECKPOINT, WITNESS, Checkpoint, Cosignature
from kakuremichi.wire.codec import WireError, decode, decode_kept
from kakuremichi.wire.identity import Certificate, FeedKeyCertificate, TrustSet
from kakuremichi.wire.signing import DEPLOYMENT_ID_BYTES, DeploymentId, SignatureRefusedError, Signed


class AuthorityError(ValueError):
    """A signature or a statement is not what it has to be; `field` names which, the text is a sentence."""

    def __init__(self, name: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = name


@dataclass(frozen=True, slots=True)
class Authority:
    deployment: DeploymentId
    trust_sha256: bytes
    members: TrustSet
    feed_key: VerifyKey


@dataclass(frozen=True, slots=True)
class Seal:
    """A checkpoint that the feed key signed; `doubtful` has a sentence for each witness that is none."""

    checkpoint: Checkpoint
    witnesses: tuple[str, ...]  # node ids
    doubtful: tuple[str, ...]


def authority_of(header: Header) -> Authority:
    """Check the header's trust set by itself and the feed key by it; :class:`AuthorityError`."""
    if len(header.deployment) != DEPLOYMENT_ID_BYTES:
        raise AuthorityError("deployment", f"deployment: {len(header.deployment)} bytes, {DEPLOYMENT_ID_BYTES} needed")
    deployment = DeploymentId(header.deployment)
    trust, feed_key = _signed(header.trust, "trust"), _signed(header.feed_key, "feed_key")
    try:
        members = decode(trust.body, TrustSet)
        signing.verify(signing.TRUST_SET, deployment, trust, frozenset(members.keys), threshold=members.threshold)
    except (WireError, SignatureRefusedError) as error:
        raise AuthorityError("trust", f"trust set: {error}") from error
    key = feed_key_of(feed_key, deployment, members)
    return Authority(deployment, hashlib.sha256(trust.body).digest(), members, key)


def feed_key_of(signed: Signed, deployment: DeploymentId, members: TrustSet) -> VerifyKey:
    """The key that the trust keys say may speak for the log; :class:`AuthorityError`. Its dates gate new facts only."""
    try:
        keys = frozenset(members.keys)
        body = signing.verify(signing.FEED_KEY, deployment, signed, keys, threshold=members.threshold)
        return decode(body, FeedKeyCertificate).key
    except (WireError, SignatureRefusedError) as error:
        raise AuthorityError("feed_key", f"feed key: {error}") from error


def open_checkpoint(authority: Authority, line: CheckpointLine | CoverLine, log_id: str) -> Seal:
    """:class:`AuthorityError` unless the feed key signed it for this log."""
    signed = _signed(line.signed, "signed")
    checkpoint = checkpoint_of(signed, authority.deployment, authority.feed_key)
    if checkpoint.log_id != log_id:
        said = f"checkpoint of {checkpoint.size} rows: of log {checkpoint.log_id[:64]}, the export is of {log_id[:64]}"
        raise AuthorityError("log_id", said)
    if checkpoint.size != line.size:
        said = f"checkpoint of {checkpoint.size} rows: its line says {line.size}"
        raise AuthorityError("size", said)
    witnesses, doubtful = _witnesses(authority, signed.body, checkpoint.size, line.witnesses)
    return Seal(checkpoint, witnesses, doubtful)


def checkpoint_of(signed: Signed, deployment: DeploymentId, feed_key: VerifyKey) -> Checkpoint:
    """What the feed key says; :class:`AuthorityError` if it is not its word."""
    try:
        return decode(signing.verify(CHECKPOINT, deployment, signed, {feed_key}), Checkpoint)
    except (WireError, SignatureRefusedError) as error:
        raise AuthorityError("signed", f"checkpoint: {error}") from error


def held_checkpoint(authority: Authority, raw: bytes, log_id: str) -> Checkpoint:
    """What a gateway keeps as the last that it signed; :class:`AuthorityError` if it is none, or of another log."""
    checkpoint = checkpoint_of(_signed(raw, "held"), authority.deployment, authority.feed_key)
    if checkpoint.log_id != log_id:
        said = f"checkpoint that is held: of log {checkpoint.log_id[:64]}, the export is of {log_id[:64]}"
        raise AuthorityError("held", said)
    return checkpoint


def size_of_held(raw: bytes) -> int:
    """Of how many rows it is, whoever signed it; :class:`AuthorityError`."""
    try:
        return decode(_signed(raw, "held").body, Checkpoint).size
    except WireError as error:
        raise AuthorityError("held", f"checkpoint that is held: {error}") from error


def _witnesses(
    authority: Authority, body: bytes, size: int, given: Sequence[bytes]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names, doubtful = [], []
    for number, raw in enumerate(given, 1):
        try:
            names.append(_witness(authority, body, raw))
        except (WireError, SignatureRefusedError, AuthorityError) as error:
            doubtful.append(f"checkpoint of {size} rows: witness {number} of {len(given)}: {error}")
    return tuple(names), tuple(doubtful)


def _witness(authority: Authority, body: bytes, raw: bytes) -> str:
    cosignature = decode(raw, Cosignature)
    members = authority.members
    stated = signing.verify(
        signing.CERTIFICATE, authority.deployment, cosignature.certificate, frozenset(members.keys),
        threshold=members.threshold,
    )  # fmt: skip
    certificate = decode(stated, Certificate)
    if certificate.role != "gateway":
        raise AuthorityError("witnesses", f"node {certificate.node_id} is no gateway")
    signing.verify(WITNESS, authority.deployment, Signed(body, (cosignature.signature,)), {certificate.identity_key})
    return certificate.node_id


def _signed(raw: bytes, name: str) -> Signed:
    try:
        signed: Signed = decode_kept(raw, Signed, name=name)
    except WireError as error:
        raise AuthorityError(name, str(error)) from error
    return signed
