"""What a node has that ends: credentials for the bus, and its certificate.

A node whose credentials have expired asks for new ones over HTTP, and proves itself by its identity key.

No challenge is needed: what is answered is of use to the holder of that key only, and a request holds for minutes.
"""

import secrets
import time

import msgspec
from msgspec import Struct
from nacl.signing import SigningKey

from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import VerifyKey
from kakuremichi.wire import signing
from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.identity import Certificate, Renewal
from kakuremichi.wire.signing import DeploymentId, SignatureRefusedError, Signed

RENEWAL = "renewal"
VALID_S = 300.0


def certificate_is_due(certificate: Certificate, now: float) -> bool:
    """Whether a third of its life or less is left: time for the next one, also where people have to sign it."""
    return now >= certificate.not_after - (certificate.not_after - certificate.not_before) / 3


class RenewalRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node sends to `POST /api/v1/renew`."""

    renewal: Signed  # Renewal, by the node's identity key


class RenewalAnswer(Struct, frozen=True, kw_only=True):
    jwt: str


def request_to_renew(
    deployment: DeploymentId, node: NodeId, serial: int, identity: SigningKey, *, now: float | None = None
) -> RenewalRequest:
    at = int(time.time() if now is None else now)
    said = Renewal(node_id=node, serial=serial, at=at, nonce=secrets.token_bytes(16))
    return RenewalRequest(renewal=signing.sign(RENEWAL, deployment, encode(said), identity))


def claimed(renewal: Signed) -> Renewal:
    """Who it says it is from, unproven; :class:`WireError` if it is no renewal."""
    return decode(renewal.body, Renewal)


def is_proven(renewal: Signed, deployment: DeploymentId, key: VerifyKey, now: float) -> bool:
    """Whether the holder of `key` said it within the last minutes."""
    try:
        signing.verify(RENEWAL, deployment, renewal, {key})
    except SignatureRefusedError:
        return False
    return abs(claimed(renewal).at - now) <= VALID_S


def read_renewal_answer(data: bytes) -> str:
    """The JWT; :class:`msgspec.MsgspecError` if there is none."""
    return msgspec.json.decode(data, type=RenewalAnswer).jwt
