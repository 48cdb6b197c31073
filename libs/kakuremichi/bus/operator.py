"""The NATS operator of a deployment: made once, kept in a folder, the only thing that nats-server believes.

    operator.seed          the root key, that names the deployment's signing key and does nothing else
    operator.jwt  SYS.jwt  CP.jwt        public, for the server
    control/ROLE.seed      the scoped signing keys of the control plane's roles
    credentials/ROLE.creds what each program of the control plane shows
    registry/              what the registry needs to let nodes in and to cut them off: `issuer` reads it

The accounts' own private keys are forgotten as soon as the public halves are known: all users come from scoped keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from kakuremichi.bus import jwt
from kakuremichi.bus.accounts import account_claims, operator_claims
from kakuremichi.bus.credentials import CredentialsFileError, credentials_text, read_credentials
from kakuremichi.bus.issuer import RoleIssuer, service_user
from kakuremichi.bus.jwt import Signer
from kakuremichi.bus.nkey import Kind, NkeyRefusedError, public_text, read_seed, seed_text
from kakuremichi.bus.topology import ROLES, AccountName, Role
from kakuremichi.runtime.files import write_atomically
from kakuremichi.wire.signing import verify_key

ACCOUNTS: tuple[AccountName, ...] = ("SYS", "CP", "EDGE")
REGISTRY_FOLDER = "registry"


class OperatorError(Exception):
    """The folder cannot be used; a sentence that names the file."""


@dataclass(frozen=True, slots=True)
class ServerAccounts:
    """The public part, which goes into the server's configuration."""

    operator_jwt: str
    jwts: Mapping[AccountName, str]

    def public(self, name: AccountName) -> str:
        return jwt.read(self.jwts[name]).subject


@dataclass(frozen=True, slots=True)
class Operator:
    """The folder, complete."""

    directory: Path
    accounts: ServerAccounts

    def credentials(self, role: str) -> Path:
        """The file that a program of the control plane shows."""
        return self.directory / "credentials" / f"{role}.creds"

    @property
    def registry(self) -> Path:
        return self.directory / REGISTRY_FOLDER


def init_operator(directory: Path) -> Operator:
    """Make what is missing, keep what is there. Templates that a release changed are signed anew.

    :class:`OperatorError` if a file there is damaged.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    root = Signer("operator", _seed(directory / "operator.seed", "operator"))
    accounts_signer = Signer("operator", _seed(directory / REGISTRY_FOLDER / "accounts.seed", "operator"))
    signers = {role.name: Signer("account", _seed(_seed_file(directory, role), "account")) for role in ROLES}
    publics = {name: _account(_jwt_file(directory, name)) for name in ACCOUNTS}
    operator = _kept(
        directory / "operator.jwt", root, root.public, operator_claims(publics["SYS"], accounts_signer.public)
    )
    signing_keys = {role: signer.public for role, signer in signers.items()}
    jwts = {
        name: _kept(
            _jwt_file(directory, name), accounts_signer, publics[name], account_claims(name, publics, signing_keys)
        )
        for name in ACCOUNTS
    }
    made = Operator(directory, ServerAccounts(operator, jwts))
    for role in ROLES:
        issuer = RoleIssuer(role, publics[role.account], signers[role.name])
        if role.account != "EDGE" and not _is_of(made.credentials(role.name), issuer):
            _write_credentials(made, issuer)
    return made


def _seed_file(directory: Path, role: Role) -> Path:
    return directory / (REGISTRY_FOLDER if role.account == "EDGE" else "control") / f"{role.name}.seed"


def _jwt_file(directory: Path, name: AccountName) -> Path:
    return (directory / REGISTRY_FOLDER if name == "EDGE" else directory) / f"{name}.jwt"


def _is_of(path: Path, issuer: RoleIssuer) -> bool:
    """Whether there are credentials by this signing key: removing a role's seed and starting again exchanges both."""
    if not path.exists():
        return False
    try:
        return jwt.read(read_credentials(path).jwt).issuer == issuer.signer.public
    except (CredentialsFileError, jwt.JwtRefusedError) as error:
        raise OperatorError(f"{error}; remove it to have it made anew") from error


def _write_credentials(operator: Operator, issuer: RoleIssuer) -> None:
    key = SigningKey.generate()
    write_atomically(
        operator.credentials(issuer.role.name),
        credentials_text(service_user(issuer, verify_key(key)), key).encode(),
    )


def _seed(path: Path, kind: Kind) -> SigningKey:
    if not path.exists():
        write_atomically(path, seed_text(kind, SigningKey.generate()).encode())
    try:
        return read_seed(kind, path.read_text().strip())
    except (OSError, NkeyRefusedError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: {error}; restore it from a backup") from error


def _account(path: Path) -> str:
    """The public key of the account whose JWT is in `path`; a new one if there is none."""
    known = _read(path)
    return public_text("account", verify_key(SigningKey.generate())) if known is None else known.subject


def _read(path: Path) -> jwt.Claims | None:
    if not path.exists():
        return None
    try:
        return jwt.read(path.read_text().strip())
    except (OSError, jwt.JwtRefusedError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: {error}; restore it from a backup") from error


def _kept(path: Path, signer: Signer, subject: str, claims: dict[str, Any]) -> str:
    """The JWT in `path`, written anew only if it says something else: its date decides which one a server takes."""
    known = _read(path)
    revoked = known.nats.get("revocations", {}) if known is not None else {}
    wanted = {**claims, "revocations": revoked} if revoked else claims
    if known is None or known.nats != wanted or known.issuer != signer.public:
        write_atomically(path, jwt.sign(signer, subject, path.stem, wanted).encode())
    return path.read_text().strip()
