"""What an ID token has to be, and whom it makes of its owner. Pure."""

import hmac
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import KeySet
from msgspec import Meta, Struct

from kakuremichi.wire.people import AccountRole, Agents, Pools

Algorithm = Literal[
    "RS256", "ES256", "EdDSA", "Ed25519"
]  # never `none`, never one whose key the provider's clients share
LEEWAY_S = 60
KEY_TYPES = frozenset({"RSA", "EC", "OKP"})


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose claim has `value` gets `role`, limited to `pools` and `agents` unless they are empty."""

    value: Annotated[str, Meta(min_length=1, max_length=256)]
    role: AccountRole
    pools: Pools = ()
    agents: Agents = ()


class OidcConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file of `KAKUREMICHI_OIDC_CONFIG`, in JSON. The first rule that fits counts; with none there is no way in."""

    issuer: Annotated[str, Meta(pattern=r"\Ahttps?://[!-~]+\Z", max_length=300)]
    client_id: Annotated[str, Meta(min_length=1, max_length=256)]
    client_secret: Annotated[str, Meta(max_length=512)] = ""  # "": a public client, which PKCE is enough for
    label: Annotated[str, Meta(min_length=1, max_length=64)] = "single sign-on"
    scopes: tuple[Annotated[str, Meta(pattern=r"\A[!#-\[\]-~]+\Z")], ...] = ("openid", "profile")
    claim: Annotated[str, Meta(min_length=1, max_length=128)] = "groups"
    roles: Annotated[tuple[Rule, ...], Meta(min_length=1, max_length=256)]
    algorithms: Annotated[tuple[Algorithm, ...], Meta(min_length=1)] = ("RS256", "ES256", "EdDSA", "Ed25519")
    ca_file: str = ""  # PEM, if the provider's certificate is by a CA of your own


class IdTokenError(ValueError):
    """The token says nothing that may be believed; a sentence for the log, never for the browser."""


@dataclass(frozen=True, slots=True)
class Person:
    """Known to the provider as `subject`, which never changes, and to people as `label`."""

    subject: str
    label: str
    rule: Rule


def key_set(document: Mapping[str, Any]) -> KeySet:
    """The provider's public keys; a key that two sides share verifies nothing here, whatever it is called."""
    keys = [key for key in document.get("keys", ()) if isinstance(key, dict) and key.get("kty") in KEY_TYPES]
    usable = [key for key in keys if key.get("use", "sig") == "sig" and "d" not in key]
    if not usable:
        raise IdTokenError("jwks: has no public key to verify signatures with")
    return KeySet.import_key_set({"keys": usable})


def check_id_token(token: str, keys: KeySet, config: OidcConfig, *, nonce: str, now: float) -> dict[str, Any]:
    """The claims; :class:`IdTokenError` names the first thing that is wrong."""
    if token.count(".") != 2:
        raise IdTokenError("token: a signed one is needed")
    try:
        with warnings.catch_warnings():
            # Providers say `EdDSA`, which RFC 9864 calls by the curve's name now; our list has no other curve's.
            warnings.simplefilter("ignore", SecurityWarning)
            claims = jwt.decode(token, keys, algorithms=list(config.algorithms)).claims
    except (JoseError, ValueError, TypeError, KeyError, UnicodeError) as error:
        raise IdTokenError(f"signature: {type(error).__name__}: {error}") from error
    if claims.get("iss") != config.issuer:
        raise IdTokenError("iss: is another issuer")
    _check_audience(claims, config.client_id)
    _check_times(claims, now)
    if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
        raise IdTokenError("nonce: is not that of this sign-in")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255 or not subject.isprintable():
        raise IdTokenError("sub: 1 to 255 printable characters are needed")
    return claims


def _check_audience(claims: Mapping[str, Any], client_id: str) -> None:
    audience = claims.get("aud")
    named = [audience] if isinstance(audience, str) else audience
    if not isinstance(named, list) or client_id not in named:
        raise IdTokenError("aud: is another client")
    if (len(named) > 1 or "azp" in claims) and claims.get("azp") != client_id:
        raise IdTokenError("azp: was made for another client")


def _check_times(claims: Mapping[str, Any], now: float) -> None:
    for name in ("exp", "iat"):
        if isinstance(claims.get(name), bool) or not isinstance(claims.get(name), int | float):
            raise IdTokenError(f"{name}: is needed, in seconds")
    if claims["exp"] <= now - LEEWAY_S:
        raise IdTokenError("exp: is over")
    for name in ("iat", "nbf"):
        if isinstance(claims.get(name), int | float) and claims[name] > now + LEEWAY_S:
            raise IdTokenError(f"{name}: lies in the future")


def person_of(claims: Mapping[str, Any], config: OidcConfig) -> Person | None:
    """None: no rule fits."""
    had = claims.get(config.claim, ())
    values = {had} if isinstance(had, str) else set(_texts(had))
    rule = next((rule for rule in config.roles if rule.value in values), None)
    if rule is None:
        return None
    label = next((text for name in ("preferred_username", "email", "name") if (text := _label(claims.get(name)))), "")
    return Person(f"{config.issuer} {claims['sub']}", label, rule)


def _texts(had: object) -> Sequence[str]:
    return [text for text in had if isinstance(text, str)] if isinstance(had, list) else ()


def _label(value: object) -> str:
    return "".join(filter(str.isprintable, value))[:128].strip() if isinstance(value, str) else ""
