"""Browser sessions, in memory: a restarted portal asks everybody to sign in again."""

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from kakuremichi_portal.access import Principal, Tokens

COOKIE = "kakuremichi_session"
LIFETIME_S = 8 * 3600
MAX_SESSIONS = 1000


@dataclass(frozen=True, slots=True)
class Session:
    token_sha256: str
    expires_s: float
    form_key: str  # repeated by every form of this session: a form made elsewhere does not have it


class Sessions:
    def __init__(self, tokens: Tokens, clock: Callable[[], float] = time.monotonic) -> None:
        self._tokens, self._clock = tokens, clock
        self._by_hash: OrderedDict[str, Session] = OrderedDict()

    def open(self, principal: Principal) -> str:
        """A new session; the value of its cookie."""
        value = secrets.token_urlsafe(32)
        expires = self._clock() + LIFETIME_S
        self._by_hash[_hash(value)] = Session(principal.sha256, expires, secrets.token_urlsafe(16))
        while len(self._by_hash) > MAX_SESSIONS:
            self._by_hash.popitem(last=False)
        return value

    def find(self, request: web.Request) -> tuple[Session, Principal] | None:
        """The session of the request's cookie, as long as its token is still in the token file."""
        value = request.cookies.get(COOKIE, "")
        session = self._by_hash.get(_hash(value))
        if session is None:
            return None
        principal = self._tokens.holder_of(session.token_sha256)
        if principal is None or session.expires_s <= self._clock():
            del self._by_hash[_hash(value)]
            return None
        return session, principal

    def close(self, request: web.Request) -> None:
        self._by_hash.pop(_hash(request.cookies.get(COOKIE, "")), None)


def set_cookie(response: web.StreamResponse, value: str, *, secure: bool) -> None:
    response.set_cookie(
        COOKIE, value, max_age=LIFETIME_S, httponly=True, samesite="Strict", secure=secure, path="/"
    )  # fmt: skip


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()
