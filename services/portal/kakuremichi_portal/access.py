"""Who may call: bearer tokens. Only their SHA-256 hashes are kept, in one file that is read again when it changes."""

import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from kakuremichi.wire.people import Agents, Pools
from kakuremichi_portal.principal import EVERYTHING, SCOPES, AccessRole, Principal, Scope
from kakuremichi_portal.problems import ProblemError

TOKEN_PREFIX = "kkapi."
CHALLENGE = 'Bearer realm="kakuremichi"'

PREFIX_CHARS = len(TOKEN_PREFIX) + 6


class TokenFileError(ValueError):
    """The token file cannot be used; the message is a sentence."""


class LastAdminError(ValueError):
    """Nobody could make tokens any more; a sentence."""


class ApiToken(Struct, frozen=True, kw_only=True):
    """A token as it is kept. Times are Unix seconds."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    role: AccessRole
    sha256: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    prefix: Annotated[str, Meta(max_length=32)] = ""  # of the token: tells which it is, and opens nothing
    created_at: int = 0
    expires_at: int = 0  # 0: never
    pools: Pools = ()  # empty: all
    agents: Agents = ()

    @property
    def scope(self) -> Scope:
        return Scope(self.pools, self.agents)

    @property
    def principal(self) -> Principal:
        return Principal(self.name, self.role, self.scope, expires_at=self.expires_at)

    def expired(self, now: float) -> bool:
        return 0 < self.expires_at <= now


class TokenFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tokens: tuple[ApiToken, ...]


def hash_token(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def add_token(path: Path, name: str, role: AccessRole, *, expires_at: int = 0, scope: Scope = EVERYTHING) -> str:
    """Make a token, keep its hash in the file at `path` (mode 0600, made if missing), and return it: once only."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    made = ApiToken(
        name=name, role=role, sha256=hash_token(token), prefix=token[:PREFIX_CHARS], created_at=int(time.time()),
        expires_at=expires_at, pools=msgspec.convert(scope.pools, Pools), agents=msgspec.convert(scope.agents, Agents),
    )  # fmt: skip
    with _locked(path):
        known = _read(path).tokens if path.exists() else ()
        _write(path, (*(other for other in known if other.name != name), made))
    return token


def remove_token(path: Path, name: str) -> ApiToken | None:
    """Forget the token of this name; :class:`LastAdminError` rather than that nobody is left to make others."""
    with _locked(path):
        gone, kept = without(_read(path).tokens, name)
        if gone is not None:
            _write(path, kept)
    return gone


def without(known: tuple[ApiToken, ...], name: str) -> tuple[ApiToken | None, tuple[ApiToken, ...]]:
    """The token of this name and the others; :class:`LastAdminError` if it may not go."""
    gone = next((token for token in known if token.name == name), None)
    kept = tuple(token for token in known if token is not gone)
    now = time.time()
    if gone is not None and gone.principal.mends_everything and not any(
        each.principal.mends_everything and not each.expired(now) for each in kept
    ):  # fmt: skip
        raise LastAdminError(f"api token {name}: is the last administrator's; make another one first")
    return gone, kept


def refuse_read_only(path: Path) -> None:
    """:class:`OSError` if no token could be written there."""
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time, across processes."""
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write(path: Path, tokens: tuple[ApiToken, ...]) -> None:
    file = TokenFile(tokens=tokens)
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(path)


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
        self.path = path
        self._stamp = _stamp(path)
        self._by_hash = _by_hash(_read(path))

    def find(self, token: str) -> ApiToken | None:
        return self.holder_of(hash_token(token))

    def holder_of(self, sha256: str) -> ApiToken | None:
        """The token that has this hash. Looking it up leaks no more than the hash of a random secret."""
        self._read_again_if_changed()
        holder = self._by_hash.get(sha256)
        return None if holder is None or holder.expired(time.time()) else holder

    def all(self) -> tuple[ApiToken, ...]:
        """Also the expired ones, by name."""
        self._read_again_if_changed()
        return tuple(sorted(self._by_hash.values(), key=lambda token: token.name))

    def named(self, name: str) -> ApiToken | None:
        return next((token for token in self.all() if token.name == name), None)

    def _read_again_if_changed(self) -> None:
        stamp = _stamp(self.path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._by_hash = _by_hash(_read(self.path))
        except TokenFileError:
            return


def _by_hash(file: TokenFile) -> Mapping[str, ApiToken]:
    return {token.sha256: token for token in file.tokens}


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
    known = tokens.find(token) if len(headers) == 1 and scheme.lower() == "bearer" else None
    if known is None:
        challenge = f'{CHALLENGE}, error="invalid_token"'
        raise ProblemError(
            401, "unauthenticated", "authorization: this token is not known", headers={"WWW-Authenticate": challenge}
        )
    return known.principal


def refuse_below(needed: AccessRole, principal: Principal) -> None:
    if SCOPES.index(principal.role) < SCOPES.index(needed):
        has = f"may {principal.role}" if principal.account else f"has a token of scope {principal.role}"
        raise ProblemError(403, "denied", f"{principal.name} {has}: {needed} is needed here")
