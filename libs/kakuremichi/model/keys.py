"""Keys as types. Public ones are plain bytes; private ones never print and never encode."""

import base64
import binascii
import secrets
from typing import Annotated, NewType

from msgspec import Meta
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import RuntimeError as SodiumError

KEY_BYTES = 32
P25519 = 2**255 - 19

PublicKey = NewType("PublicKey", bytes)  # X25519, 32 bytes: a WireGuard public key
VerifyKey = NewType("VerifyKey", bytes)  # Ed25519, 32 bytes
PublicKeyField = Annotated[PublicKey, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
VerifyKeyField = Annotated[VerifyKey, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]


class KeyRefusedError(ValueError):
    """The bytes are no key that may be used; the message is a sentence that says why."""


class PrivateKey:
    """An X25519 private key (RFC 7748). It hides itself: no repr, no pickle, no encoder knows it."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise KeyRefusedError(f"private key: {len(raw)} bytes, 32 are needed")
        self._raw = raw

    @classmethod
    def generate(cls) -> "PrivateKey":
        raw = bytearray(secrets.token_bytes(KEY_BYTES))
        raw[0] &= 248
        raw[31] = (raw[31] & 127) | 64
        return cls(bytes(raw))

    def public(self) -> PublicKey:
        return PublicKey(crypto_scalarmult_base(self._raw))

    def reveal(self) -> bytes:
        """The 32 raw bytes, for the WireGuard engine and nobody else."""
        return self._raw

    def __repr__(self) -> str:
        return "PrivateKey(hidden)"

    def __reduce__(self) -> str:
        raise TypeError("a private key is not pickled")


def check_public_key(key: bytes) -> PublicKey:
    """The key if WireGuard may be given it.

    Refuses what has not 32 bytes, is not the canonical encoding of its point, or is of low order:
    any of these would let a peer force a known shared secret (RFC 7748 section 6.1).
    """
    if len(key) != KEY_BYTES:
        raise KeyRefusedError(f"public key: {len(key)} bytes, 32 are needed")
    if not any(key):
        raise KeyRefusedError("public key: all bytes are zero")
    if int.from_bytes(key, "little") >= P25519:
        raise KeyRefusedError("public key: not the canonical encoding of a point")
    try:
        shared = crypto_scalarmult(PrivateKey.generate().reveal(), key)
    except SodiumError as error:
        raise KeyRefusedError("public key: a point of low order, its shared secret is known to everybody") from error
    if not any(shared):
        raise KeyRefusedError("public key: a point of low order, its shared secret is known to everybody")
    return PublicKey(key)


def key_text(key: bytes) -> str:
    """Base64 as WireGuard's tools print it, 44 characters."""
    return base64.b64encode(key).decode()


def key_from_text(text: str) -> PublicKey:
    """A public key from its base64 form; strict: no white space, no url-safe alphabet, padding present."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise KeyRefusedError("public key: not base64") from error
    if key_text(raw) != text:
        raise KeyRefusedError("public key: not the canonical base64 of 32 bytes")
    return check_public_key(raw)
