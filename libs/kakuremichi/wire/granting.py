"""Trust keys that are kept away from the server: their files, what waits for their signature, and what they sign.

JSON, because these files are carried by people. A certificate that waits is the registry's proposal with no host
name and no port in it; who signs it first says what may be routed to the node, the others sign the same bytes.
"""

import re
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace
from nacl.signing import SigningKey

from kakuremichi.wire import signing
from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.identity import Certificate, FeedKeyCertificate, TrustSet
from kakuremichi.wire.signing import DEPLOYMENT_ID_BYTES, DeploymentId, Signed, sign, verify_key

FEED_KEY_DAYS = 4000  # narrower than a trust key anyway, and its end would stop every new node at once
CLOCK_SLACK_S = 300
DAY_S = 86400

DeploymentField = Annotated[bytes, Meta(min_length=DEPLOYMENT_ID_BYTES, max_length=DEPLOYMENT_ID_BYTES)]
Names = Annotated[tuple[Annotated[str, Meta(max_length=253)], ...], Meta(max_length=256)]

_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"\A({_LABEL}\.)+{_LABEL}\Z")
_PORTS = re.compile(r"\A([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?\Z")


class GrantRefusedError(ValueError):
    """A certificate is not signed, or a signature not taken; a sentence."""


class TrustKeyFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One trust key as it lies on a stick in a drawer. It hides itself when printed."""

    deployment: DeploymentField
    seed: Annotated[bytes, Meta(min_length=32, max_length=32)]

    def __repr__(self) -> str:
        return "TrustKeyFile(hidden)"


class Grants(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Certificates on their way to the trust keys and back, with what these are to be checked by."""

    deployment: DeploymentField
    trust: Signed  # TrustSet
    certificates: Annotated[tuple[Signed, ...], Meta(max_length=1000)]
    former: Annotated[tuple[Signed, ...], Meta(max_length=1000)] = ()  # of nodes that have one: it was signed before
    next_after: Annotated[str, Meta(max_length=64)] = ""  # more wait; these are a page of them


class Founded(Struct, frozen=True):
    """A new deployment: all that is public, and the two kinds of keys, which are kept in different places."""

    deployment: DeploymentId
    trust_set: Signed
    feed_certificate: Signed
    trust_keys: tuple[SigningKey, ...]
    feed_key: SigningKey

    def __repr__(self) -> str:
        return f"Founded({self.deployment.hex()})"


def found(deployment: DeploymentId, *, keys: int, threshold: int, now: int) -> Founded:
    """Trust keys of which `threshold` have to agree, and a feed key that they certify."""
    if not 1 <= threshold <= keys <= 16:
        raise GrantRefusedError(f"threshold {threshold} of {keys} keys: at least 1, at most as many as keys, 16 in all")
    trust_keys = tuple(SigningKey.generate() for _ in range(keys))
    feed_key = SigningKey.generate()
    trust_set = TrustSet(version=1, keys=tuple(map(verify_key, trust_keys)), threshold=threshold)
    certificate = FeedKeyCertificate(
        key=verify_key(feed_key), serial=1, not_before=now - CLOCK_SLACK_S, not_after=now + FEED_KEY_DAYS * DAY_S
    )
    return Founded(
        deployment,
        sign(signing.TRUST_SET, deployment, encode(trust_set), *trust_keys),
        sign(signing.FEED_KEY, deployment, encode(certificate), *trust_keys),
        trust_keys,
        feed_key,
    )


def check_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    """Host names as a certificate holds them: exact and lower case, or `*` for any."""
    for host in hosts:
        if host != "*" and not (len(host) <= 253 and _HOST.match(host)):
            raise GrantRefusedError(f"host {host!r}: a lower case name with a dot is needed, or * for any")
    return tuple(sorted(set(hosts)))


def check_ports(ports: Sequence[str]) -> tuple[str, ...]:
    """Public ports as a certificate holds them: `443`, `6000-6100`, or `*` for any."""
    for text in ports:
        found = _PORTS.match(text)
        if text != "*" and not (found and int(found[1]) <= int(found[2] or found[1]) <= 65535):
            raise GrantRefusedError(f"ports {text!r}: one port from 1 to 65535, FIRST-LAST, or * for any")
    return tuple(sorted(set(ports)))


def granted(
    waiting: Signed, deployment: DeploymentId, key: SigningKey, *,
    hosts: tuple[str, ...] | None = None, ports: tuple[str, ...] | None = None, former: Certificate | None = None,
) -> Signed:  # fmt: skip
    """The certificate with one more signature. None leaves hosts or ports as they stand in it.

    The first signature takes over nothing on the server's word: what stands there has to be in `former`, the node's
    certificate of before, whose signatures were checked.
    """
    old = decode(waiting.body, Certificate)
    if not waiting.signatures:
        before = former if former is not None and continues(old, former) else None
        _check_held("hosts", old.hosts if hosts is None else (), before.hosts if before else ())
        _check_held("ports", old.ports if ports is None else (), before.ports if before else ())
    new = replace(old, hosts=old.hosts if hosts is None else hosts, ports=old.ports if ports is None else ports)
    if new != old and waiting.signatures:
        raise GrantRefusedError(
            f"certificate of {old.node_id}: was signed already with other hosts or ports; all keys sign the same"
        )
    body = waiting.body if new == old else encode(new)
    others = tuple(signature for signature in waiting.signatures if signature.key != verify_key(key))
    return Signed(body, (*others, *sign(signing.CERTIFICATE, deployment, body, key).signatures))


def _check_held(what: str, proposed: tuple[str, ...], held: tuple[str, ...]) -> None:
    if "*" not in held and not set(proposed) <= set(held):
        raise GrantRefusedError(
            f"{what} {', '.join(proposed)}: the server proposes them and nobody has signed them; say --{what}"
        )


def continues(certificate: Certificate, former: Certificate) -> bool:
    """Whether both are of the same node: only serial, dates, hosts and ports may differ."""
    return certificate == replace(
        former, serial=certificate.serial, not_before=certificate.not_before, not_after=certificate.not_after,
        hosts=certificate.hosts, ports=certificate.ports,
    )  # fmt: skip


def is_proposed(certificate: Certificate, proposed: Certificate) -> bool:
    """Whether it is what the registry proposed, but for what its owner alone decides."""
    return replace(certificate, hosts=(), ports=()) == replace(proposed, hosts=(), ports=())
