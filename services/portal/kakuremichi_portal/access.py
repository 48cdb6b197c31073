"""Who may call: bearer tokens. Only their SHA-256 hashes are kept, in one file that is read again when it changes."""

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from kakuremichi_portal.problems import ProblemError

TOKEN_PREFIX = "kkapi."
CHALLENGE = 'Bearer realm="kakuremichi"'

AccessRole = Literal["admin", "viewer"]


class TokenFileError(ValueError):
    """The token file cannot be used; the message is a sentence."""


class Principal(Struct, frozen=True, kw_only=True):
    """An authenticated caller. `viewer` may read, `admin` may write too."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    role: AccessRole
    sha256: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class TokenFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tokens: tuple[Principal, ...]


def hash_token(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def add_token(path: Path, name: str, role: AccessRole) -> str:
    """Make a token, keep its hash in the file at `path` (mode 0600, made if missing), and return it: once only."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    known = _read(path).tokens if path.exists() else ()
    kept = tuple(principal for principal in known if principal.name != name)
    file = TokenFile(tokens=(*kept, Principal(name=name, role=role, sha256=hash_token(token))))
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(path)
    return token


def _read(path: Path) -> TokenFile:
    try:
        return msgspec.json.decode(path.read_bytes(), type=TokenFile)
    except OSError as error:
        raise TokenFileError(f"token file {path}: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TokenFileError(f"token file {path}: {error}") from error


class Tokens:
    """The token file in memory. A file that becomes unreadable or wrong leaves what was read last in force."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = _stamp(path)
        self._by_hash = _by_hash(_read(path))

    def find(self, token: str) -> Principal | None:
        return self.holder_of(hash_token(token))

    def holder_of(self, sha256: str) -> Principal | None:
        """The principal whose token has this hash. Looking it up leaks no more than the hash of a random secret."""
        self._read_again_if_changed()
        return self._by_hash.get(sha256)

    def _read_again_if_changed(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._by_hash = _by_hash(_read(self._path))
        except TokenFileError:
            return


def _by_hash(file: TokenFile) -> Mapping[str, Principal]:
    return {principal.sha256: principal for principal in file.tokens}


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_mtime_ns, stat.st_ino, stat.st_size)


def bearer(request: web.Request, tokens: Tokens) -> Principal:
    """Who sends `Authorization: Bearer …`; :class:`ProblemError` 401 in every other case, always the same sentence."""
    headers = request.headers.getall("Authorization", [])
    if not headers:
        raise ProblemError(
            401, "unauthenticated", "authorization: a bearer token is needed", headers={"WWW-Authenticate": CHALLENGE}
        )
    scheme, _, token = headers[0].partition(" ")
    principal = tokens.find(token) if len(headers) == 1 and scheme.lower() == "bearer" else None
    if principal is None:
        challenge = f'{CHALLENGE}, error="invalid_token"'
        raise ProblemError(
            401, "unauthenticated", "authorization: this token is not known", headers={"WWW-Authenticate": challenge}
        )
    return principal


def refuse_unless_writer(principal: Principal) -> None:
    if principal.role != "admin":
        raise ProblemError(403, "denied", f"{principal.name} may read and not write: the role admin is needed")
