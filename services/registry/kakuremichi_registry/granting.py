"""Signatures by trust keys that lie elsewhere: what they complete, and what they may not change. Pure."""

from base64 import b64encode
from dataclasses import dataclass

from kakuremichi.wire import signing
from kakuremichi.wire.codec import WireError, decode, encode
from kakuremichi.wire.facts import NodeCertified
from kakuremichi.wire.granting import is_proposed
from kakuremichi.wire.identity import Certificate
from kakuremichi.wire.signing import Signed
from kakuremichi_registry.refusal import conflict, invalid
from kakuremichi_registry.trust import Trust


@dataclass(frozen=True, slots=True)
class Grant:
    signed: Signed
    complete: bool
    fact: NodeCertified


def read_certificate(submitted: Signed) -> Certificate:
    try:
        return decode(submitted.body, Certificate)
    except WireError as error:
        raise invalid("certificates", f"certificates: {error}") from error


def decide(trust: Trust, submitted: Signed, held: Signed) -> Grant | None:
    """The certificate with the signatures of both; None if nothing is new. :class:`Refusal` says what does not fit."""
    certificate, members = read_certificate(submitted), trust.members
    if not is_proposed(certificate, decode(held.body, Certificate)):
        raise conflict(
            "not-proposed",
            f"certificate of {certificate.node_id}: is not the one that waits; export the pending ones again",
            field="certificates",
        )
    keys = frozenset(members.keys)
    good = signing.valid_signatures(signing.CERTIFICATE, trust.deployment, submitted, keys)
    if not good:
        raise invalid("certificates", f"certificate of {certificate.node_id}: has no signature by a trust key")
    before = signing.valid_signatures(signing.CERTIFICATE, trust.deployment, held, keys)
    if held.body == submitted.body:
        good = signing.valid_signatures(
            signing.CERTIFICATE, trust.deployment, Signed(held.body, (*before, *good)), keys
        )
        if len(good) == len(before):
            return None
    elif before and len(good) < members.threshold:
        raise conflict(
            "other-grant",
            f"certificate of {certificate.node_id}: another key signed it with other hosts or ports; agree on one",
            field="certificates",
        )
    signed = Signed(submitted.body, good)
    fact = NodeCertified(
        node_id=certificate.node_id, serial=certificate.serial, hosts=certificate.hosts, ports=certificate.ports,
        signatures=len(good), needed=members.threshold, certificate=b64encode(encode(signed)).decode(),
    )  # fmt: skip
    return Grant(signed, len(good) >= members.threshold, fact)
