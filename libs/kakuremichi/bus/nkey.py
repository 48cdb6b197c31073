"""nkeys: Ed25519 keys as NATS writes them, base32 of a kind, the key and a checksum (nats-io/nkeys)."""

import base64
import binascii
from typing import Literal

from nacl.signing import SigningKey

from kakuremichi.model.keys import KEY_BYTES, VerifyKey

Kind = Literal["operator", "account", "user"]

_KINDS: dict[Kind, int] = {"operator": 14 << 3, "account": 0, "user": 20 << 3}  # O…, A…, U…
_SEED = 18 << 3  # S…


class NkeyRefusedError(ValueError):
    """The text is no nkey of the kind that is needed; it is never repeated, as it may be a seed."""


def public_text(kind: Kind, key: VerifyKey) -> str:
    """`key` as 56 characters, the first of which tells its kind."""
    return _text(bytes([_KINDS[kind]]) + key)


def seed_text(kind: Kind, key: SigningKey) -> str:
    """The private key as 58 characters, `SO…`, `SA…` or `SU…`: a secret."""
    byte = _KINDS[kind]
    return _text(bytes([_SEED | byte >> 5, (byte & 31) << 3]) + bytes(key))


def read_public(kind: Kind, text: str) -> VerifyKey:
    """The key of its text form; :class:`NkeyRefusedError` if it is damaged or of another kind."""
    raw = _raw(text)
    if len(raw) != 1 + KEY_BYTES or raw[0] != _KINDS[kind]:
        raise NkeyRefusedError(f"nkey: not the public key of {_named(kind)}")
    return VerifyKey(raw[1:])


def read_seed(kind: Kind, text: str) -> SigningKey:
    """The private key of its text form; :class:`NkeyRefusedError` if it is damaged or of another kind."""
    raw, byte = _raw(text), _KINDS[kind]
    if len(raw) != 2 + KEY_BYTES or (raw[0], raw[1]) != (_SEED | byte >> 5, (byte & 31) << 3):
        raise NkeyRefusedError(f"nkey: not the seed of {_named(kind)}")
    return SigningKey(raw[2:])


def _named(kind: Kind) -> str:
    return f"an {kind}" if kind != "user" else "a user"


def _text(raw: bytes) -> str:
    checksum = binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(raw + checksum).decode().rstrip("=")


def _raw(text: str) -> bytes:
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError) as error:
        raise NkeyRefusedError("nkey: not base32") from error
    body, checksum = raw[:-2], raw[-2:]
    if len(raw) < 3 or binascii.crc_hqx(body, 0).to_bytes(2, "little") != checksum or _text(body) != text:
        raise NkeyRefusedError("nkey: its checksum does not fit, copy it again whole")
    return body
