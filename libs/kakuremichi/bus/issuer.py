"""Minting users of the bus: each from its role's scoped signing key, so it can do what the role may and no more."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kakuremichi.bus import jwt
from kakuremichi.bus.jwt import Signer
from kakuremichi.bus.nkey import NkeyRefusedError, public_text, read_seed
from kakuremichi.bus.topology import AGENT, GATEWAY, Role
from kakuremichi.model.ids import NodeId, PoolName, is_token
from kakuremichi.model.keys import VerifyKey
from kakuremichi.runtime.files import write_atomically

LIFE_S = 24 * 3600
MOST_REVOKED = 600  # 93 bytes each in the account's JWT, and a message has 64 kB
CLOCK_SLACK_S = 300


class IssuerError(Exception):
    """The issuer's folder cannot be used, or too much was asked of it; a sentence."""


class MintRefusedError(ValueError):
    """No user may have this id or pool: a tag `*` would open every pool. The sentence names which."""


@dataclass(frozen=True, slots=True)
class RoleIssuer:
    role: Role
    account: str  # public key of the account that the users are in
    signer: Signer


def service_user(issuer: RoleIssuer, key: VerifyKey) -> str:
    """The JWT of a program of the control plane: it holds as long as the signing key does."""
    claims = {"type": "user", "version": 2, "issuer_account": issuer.account}
    return jwt.sign(issuer.signer, public_text("user", key), issuer.role.name, claims)


def node_user(
    issuer: RoleIssuer, key: VerifyKey, node: NodeId, pool: PoolName, *, life_s: float, now: float | None = None
) -> str:
    """The JWT of one node, for the holder of `key`. No permission is in it: they come from the role's template.

    Exactly one tag, in lower case: tag keys are case-sensitive, and each further tag would be a further pool.
    """
    for field, value in (("node id", node), ("pool", pool)):
        if not is_token(value):
            raise MintRefusedError(f"{field} {value!r}: 1 to 31 of a-z, 0-9 and '-' are needed, not led by '-'")
    at = time.time() if now is None else now
    claims = {"type": "user", "version": 2, "issuer_account": issuer.account, "tags": [f"pool:{pool}"]}
    subject = public_text("user", key)
    return jwt.sign(issuer.signer, subject, node, claims, expires_at=int(at + life_s), now=at)


@dataclass(frozen=True, slots=True)
class NodeIssuer:
    """What the registry holds: it lets nodes into EDGE and signs that account's revocations."""

    directory: Path
    account: str
    roles: Mapping[str, RoleIssuer]
    accounts_signer: Signer
    life_s: float = LIFE_S

    def mint(self, role: str, key: VerifyKey, node: NodeId, pool: PoolName) -> str:
        """A node's JWT for the next `life_s`; :class:`MintRefusedError` for an id or a pool that is no token."""
        return node_user(self.roles[role], key, node, pool, life_s=self.life_s)

    def revoke(self, revoked: Mapping[VerifyKey, float], *, now: float | None = None) -> str:
        """The EDGE account's JWT in which these keys' older JWTs count for nothing. Unix seconds by key.

        All that are revoked, each time: what is left out is let in again. Those whose last JWT has expired anyway are
        left out here. :class:`IssuerError` if the rest is more than a server takes.
        """
        at = time.time() if now is None else now
        oldest = at - self.life_s - CLOCK_SLACK_S
        kept = {public_text("user", key): int(since) for key, since in revoked.items() if since > oldest}
        if len(kept) > MOST_REVOKED:
            raise IssuerError(f"revocations: {len(kept)} within one life of a JWT, {MOST_REVOKED} fit")
        path = self.directory / "EDGE.jwt"
        known = jwt.read(path.read_text().strip())
        claims = {name: value for name, value in known.nats.items() if name != "revocations"}
        if kept:
            claims["revocations"] = dict(sorted(kept.items()))
        if claims == known.nats:
            return path.read_text().strip()
        # Servers keep the newer of two, by the second: one made within the same second must not lose.
        text = jwt.sign(self.accounts_signer, known.subject, known.name, claims, now=max(at, known.issued_at + 1))
        write_atomically(path, text.encode())  # a server that starts with an empty resolver begins with it
        return text


def open_issuer(directory: Path, *, life_s: float = LIFE_S) -> NodeIssuer:
    """Read the registry's folder; :class:`IssuerError` names what is missing or damaged."""
    try:
        account = jwt.read((directory / "EDGE.jwt").read_text().strip()).subject
        seeds = {name: (directory / f"{name}.seed").read_text().strip() for name in ("accounts", "gateway", "agent")}
        roles = {
            role.name: RoleIssuer(role, account, Signer("account", read_seed("account", seeds[role.name])))
            for role in (GATEWAY, AGENT)
        }
        signer = Signer("operator", read_seed("operator", seeds["accounts"]))
    except (OSError, jwt.JwtRefusedError, NkeyRefusedError, UnicodeDecodeError) as error:
        raise IssuerError(f"{directory}: {error}; `kakuremichi up` or `kakuremichi trust init` makes it") from error
    return NodeIssuer(directory, account, roles, signer, life_s)
