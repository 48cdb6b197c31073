"""The JWTs of NATS' operator mode: signed claims about operators, accounts and users (nats-io/jwt, version 2).

What nats-server believes is only what one of these says. Signatures are Ed25519 over the text, the signer is named by
its nkey inside; whether that signer counts is for the reader to know.
"""

import base64
import binascii
import hashlib
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Struct
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey
from nacl.signing import VerifyKey as SodiumVerifyKey

from kakuremichi.bus.nkey import Kind, NkeyRefusedError, public_text, read_public
from kakuremichi.wire.signing import verify_key

_HEADER = b'{"typ":"JWT","alg":"ed25519-nkey"}'
_KIND_OF_INITIAL: dict[str, Kind] = {"O": "operator", "A": "account", "U": "user"}
MAX_CHARS = 65536


class JwtRefusedError(ValueError):
    """The text is no JWT of NATS, or not signed by who it says; the message is a sentence without the text."""


class Claims(Struct, frozen=True, kw_only=True, rename={"issuer": "iss", "subject": "sub", "issued_at": "iat"}):
    """What every JWT says, and under `nats` what it is about. Times in Unix seconds; `exp` 0 is never."""

    issuer: str
    subject: str
    issued_at: int
    name: str = ""
    exp: int = 0
    nats: dict[str, Any] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key and the kind that it signs as."""

    kind: Kind
    key: SigningKey = field(repr=False)

    @property
    def public(self) -> str:
        return public_text(self.kind, verify_key(self.key))


def sign(
    signer: Signer, subject: str, name: str, nats: dict[str, Any], *, expires_at: int = 0, now: float | None = None
) -> str:
    """A JWT about `subject`, an nkey. `now` is Unix seconds, the present if it is left out."""
    issued_at = int(time.time() if now is None else now)
    claims: dict[str, Any] = {"iss": signer.public, "sub": subject, "name": name, "iat": issued_at, "nats": nats}
    if expires_at:
        claims["exp"] = expires_at
    digest = hashlib.new("sha512_256", msgspec.json.encode(claims)).digest()
    claims["jti"] = base64.b32encode(digest).decode().rstrip("=")
    signed = f"{_base64(_HEADER)}.{_base64(msgspec.json.encode(claims))}"
    return f"{signed}.{_base64(signer.key.sign(signed.encode()).signature)}"


def read(text: str) -> Claims:
    """The claims, once the signature is that of the issuer that they name; :class:`JwtRefusedError` otherwise."""
    if len(text) > MAX_CHARS or text.count(".") != 2 or not text.isascii():
        raise JwtRefusedError(f"jwt: not three parts with dots between, or longer than {MAX_CHARS} characters")
    signed, _, signature = text.rpartition(".")
    header, _, body = signed.partition(".")
    try:
        if msgspec.json.decode(_bytes(header)) != msgspec.json.decode(_HEADER):
            raise JwtRefusedError("jwt: not of NATS' own kind, ed25519-nkey")
        claims = msgspec.json.decode(_bytes(body), type=Claims)
        issuer = read_public(_KIND_OF_INITIAL.get(claims.issuer[:1], "operator"), claims.issuer)
        SodiumVerifyKey(issuer).verify(signed.encode(), _bytes(signature))
    except BadSignatureError as error:
        raise JwtRefusedError("jwt: not signed by the issuer that it names") from error
    except NkeyRefusedError as error:
        raise JwtRefusedError(f"jwt: issuer: {error}") from error
    except (msgspec.MsgspecError, binascii.Error, UnicodeDecodeError, RecursionError) as error:
        raise JwtRefusedError("jwt: not base64 of JSON of the agreed form") from error
    except ValueError as error:
        if isinstance(error, JwtRefusedError):
            raise
        raise JwtRefusedError("jwt: a signature of another length") from error
    return claims


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
