"""Signed bytes: what is signed is carried as it was signed and never encoded again to be checked.

Ed25519 (RFC 8032) through libsodium only: other libraries accept public keys of small order, under which
one fixed signature fits every message.
"""

import hashlib
from collections.abc import Set as AbstractSet
from typing import Annotated, NewType

from msgspec import Meta, Struct
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey
from nacl.signing import VerifyKey as SodiumVerifyKey

from kakuremichi.model.keys import VerifyKey, VerifyKeyField

DeploymentId = NewType("DeploymentId", bytes)
DEPLOYMENT_ID_BYTES = 16

# What a signature is about. A signature for one purpose is worth nothing for another.
CERTIFICATE = "certificate"
ANNOUNCEMENT = "announcement"
TRUST_SET = "trust-set"
FEED_KEY = "feed-key"
FEED_ITEM = "feed-item"
HEAD = "head"


class SignatureRefusedError(ValueError):
    """Too few valid signatures by the keys that count."""


class Signature(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    key: VerifyKeyField
    value: Annotated[bytes, Meta(min_length=64, max_length=64)]


class Signed(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A body and who signed it. `body` is MessagePack of the purpose's struct."""

    body: bytes
    signatures: Annotated[tuple[Signature, ...], Meta(max_length=16)]


def digest_of(signed: Signed) -> bytes:
    """SHA-256 of the body: how a later statement names this one."""
    return hashlib.sha256(signed.body).digest()


def verify_key(key: SigningKey) -> VerifyKey:
    return VerifyKey(bytes(key.verify_key))


def to_sign(purpose: str, deployment: DeploymentId, body: bytes) -> bytes:
    """The exact bytes under the signature: purpose and deployment first, so nothing can be replayed elsewhere."""
    return b"kakuremichi/" + purpose.encode() + b"/v1\0" + deployment + hashlib.sha256(body).digest()


def sign(purpose: str, deployment: DeploymentId, body: bytes, *keys: SigningKey) -> Signed:
    message = to_sign(purpose, deployment, body)
    return Signed(body, tuple(Signature(verify_key(key), key.sign(message).signature) for key in keys))


def verify(
    purpose: str, deployment: DeploymentId, signed: Signed, keys: AbstractSet[VerifyKey], *, threshold: int = 1
) -> bytes:
    """The body, once `threshold` distinct keys of `keys` have signed it for this purpose and deployment."""
    message = to_sign(purpose, deployment, signed.body)
    good: set[VerifyKey] = set()
    for signature in signed.signatures:
        if signature.key in keys and signature.key not in good and _fits(signature, message):
            good.add(signature.key)
            if len(good) >= threshold:
                return signed.body
    raise SignatureRefusedError(f"{purpose}: {len(good)} valid signatures by the keys that count, {threshold} needed")


def valid_signatures(
    purpose: str, deployment: DeploymentId, signed: Signed, keys: AbstractSet[VerifyKey]
) -> tuple[Signature, ...]:
    """The signatures that count, one for each key, in the order of the keys' bytes."""
    message = to_sign(purpose, deployment, signed.body)
    good = {
        signature.key: signature
        for signature in signed.signatures
        if signature.key in keys and _fits(signature, message)
    }
    return tuple(good[key] for key in sorted(good))


def _fits(signature: Signature, message: bytes) -> bool:
    try:
        SodiumVerifyKey(signature.key).verify(message, signature.value)
    except (BadSignatureError, ValueError):
        return False
    return True
