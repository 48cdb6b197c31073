"""How a new node comes in: the join token that a person carries, and the one HTTP exchange that it opens.

JSON over HTTP, bytes as base64. The node strictly checks what it gets against the join token: nothing that
the server in the middle says is believed because of who said it.
"""

import base64
import binascii
import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey
from nacl.signing import VerifyKey as SodiumVerifyKey

from kakuremichi.model.keys import PublicKey, PublicKeyField, VerifyKeyField
from kakuremichi.wire.codec import WireError, decode, encode
from kakuremichi.wire.identity import Hash
from kakuremichi.wire.signing import Signed, verify_key

TOKEN_PREFIX = "kk1."
MAX_TOKEN_CHARS = 1024
SECRET_BYTES = 32

Secret = Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
Text = Annotated[str, Meta(max_length=512)]


class JoinTokenRefusedError(ValueError):
    """The text is no join token, or the answer does not fit the token; the message is a sentence."""


class JoinToken(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """Where to enrol, with which secret, and whom to believe there. It hides its secret when printed."""

    url: Annotated[str, Meta(min_length=1, max_length=256)]  # of the portal, without the path
    secret: Secret
    ca: Annotated[bytes, Meta(max_length=32)]  # SHA-256 of the CA certificate (DER); empty while there is none
    trust: Hash  # SHA-256 of the trust set's signed body

    def __repr__(self) -> str:
        return f"JoinToken(url={self.url!r}, secret=hidden)"


class EnrolmentRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node sends to `POST /api/v1/enrol`."""

    secret: Secret
    identity_key: VerifyKeyField
    sealing_key: PublicKeyField
    proof: Annotated[bytes, Meta(min_length=64, max_length=64)]
    networks: Annotated[tuple[Text, ...], Meta(max_length=128)] = ()  # CIDR; what the host uses already
    endpoints: Annotated[tuple[Text, ...], Meta(max_length=8)] = ()  # gateways: "IP:port"

    def __repr__(self) -> str:
        return f"EnrolmentRequest(secret=hidden, networks={self.networks!r}, endpoints={self.endpoints!r})"


class BusAccess(Struct, frozen=True, kw_only=True):
    """How the node reaches NATS. The JWT names its identity key: without that key it opens nothing."""

    url: str
    jwt: str

    def __repr__(self) -> str:
        return f"BusAccess(url={self.url!r}, jwt=hidden)"


class EnrolmentAnswer(Struct, frozen=True, kw_only=True):
    """Who the node is from now on. The certificate names its id, role, pool and slot or subnet."""

    deployment: Annotated[bytes, Meta(min_length=16, max_length=16)]
    certificate: Signed  # Certificate
    trust: Signed  # TrustSet
    feed_key: Signed  # FeedKeyCertificate
    endpoints: tuple[str, ...]
    bus: BusAccess


class EnrolmentPending(Struct, frozen=True, kw_only=True):
    """202: the trust keys that have to sign lie elsewhere. The node asks again, in the same words, for any time."""

    node: str
    detail: str


def hash_of(secret: bytes) -> bytes:
    """What the registry keeps of a secret."""
    return hashlib.sha256(secret).digest()


def join_token_text(token: JoinToken) -> str:
    return TOKEN_PREFIX + base64.urlsafe_b64encode(encode(token)).decode().rstrip("=")


def parse_join_token(text: str) -> JoinToken:
    """The token of its text form; :class:`JoinTokenRefusedError` never repeats the text, which is a secret."""
    if not text.startswith(TOKEN_PREFIX) or len(text) > MAX_TOKEN_CHARS:
        raise JoinTokenRefusedError(f"join token: does not begin with {TOKEN_PREFIX}, or is too long")
    body = text.removeprefix(TOKEN_PREFIX)
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        token = decode(raw, JoinToken, name="join token")
    except (binascii.Error, ValueError) as error:
        raise JoinTokenRefusedError("join token: damaged, copy it again whole") from error
    if len(token.ca) not in (0, 32):
        raise JoinTokenRefusedError("join token: the CA's hash has neither 0 nor 32 bytes")
    return token


def request_to_enrol(
    token: JoinToken,
    identity: SigningKey,
    sealing_key: PublicKey,
    *,
    networks: tuple[str, ...] = (),
    endpoints: tuple[str, ...] = (),
) -> EnrolmentRequest:
    """The request, with the proof that the node holds the identity key which it shows."""
    proof = identity.sign(_to_prove(hash_of(token.secret), sealing_key)).signature
    return EnrolmentRequest(
        secret=token.secret,
        identity_key=verify_key(identity),
        sealing_key=sealing_key,
        proof=proof,
        networks=networks,
        endpoints=endpoints,
    )


def proof_fits(request: EnrolmentRequest) -> bool:
    """Whether the sender holds the private half of `identity_key`."""
    try:
        message = _to_prove(hash_of(request.secret), request.sealing_key)
        SodiumVerifyKey(request.identity_key).verify(message, request.proof)
    except (BadSignatureError, ValueError):
        return False
    return True


def encode_json(message: Struct) -> bytes:
    return msgspec.json.encode(message)


def read_answer(token: JoinToken, data: bytes) -> EnrolmentAnswer:
    """The portal's answer, once its trust set is the one that the token names."""
    try:
        answer = msgspec.json.decode(data, type=EnrolmentAnswer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"enrolment answer: {error}") from error
    if hashlib.sha256(answer.trust.body).digest() != token.trust:
        raise JoinTokenRefusedError("enrolment answer: its trust set is not the one that the join token names")
    return answer


def _to_prove(secret_hash: bytes, sealing_key: bytes) -> bytes:
    # The sealing key is under the signature too: nobody on the way puts another in its place.
    return b"kakuremichi/enrolment/v1\0" + secret_hash + sealing_key
