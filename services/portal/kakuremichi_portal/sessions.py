"""Browser sessions. The registry keeps them, so that every portal knows them and a change of an account ends them.

The cookie is 32 random bytes; what is kept is their SHA-256. No value is ever taken over from before a sign-in.
"""

import hashlib
import hmac
import secrets

from aiohttp import web

from kakuremichi.wire import people
from kakuremichi.wire.commands import Written
from kakuremichi_portal.access import ApiToken, Tokens
from kakuremichi_portal.principal import GRANTS, Principal, Scope, SignedIn
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import Call

COOKIE = "__Host-kakuremichi_session"  # a browser takes this name over HTTPS only, for this host and every path
PLAIN_COOKIE = "kakuremichi_session"  # without TLS, which is for loopback
IDLE_S = 3600
LIFETIME_S = 12 * 3600


class Sessions:
    def __init__(self, registry: Registry, tokens: Tokens, *, secure: bool) -> None:
        self._registry, self._tokens, self.secure = registry, tokens, secure
        self.cookie = COOKIE if secure else PLAIN_COOKIE

    async def open_account(self, call: Call, account: people.AccountView, method: people.Method) -> str:
        """A session of the account as it was looked at; the cookie's value."""
        return await self._open(call, f"person/{account.name}", method, account=account.name, version=account.version)

    async def open_token(self, call: Call, token: ApiToken) -> str:
        return await self._open(call, token.name, "api-token", token_sha256=token.sha256, token_name=token.name)

    async def _open(  # one of the two
        self, call: Call, actor: str, method: people.Method, *, account: str = "", version: int = 0,
        token_sha256: str = "", token_name: str = "",
    ) -> str:  # fmt: skip
        value = secrets.token_urlsafe(32)
        command = people.OpenSession(
            actor=actor, session_hash=_hash(value), account=account, version=version, token_sha256=token_sha256,
            token_name=token_name, method=method, source=call.source, client=client_of(call.request),
            idle_s=IDLE_S, ttl_s=LIFETIME_S,
        )  # fmt: skip
        await self._registry.person(command, Written)
        return value

    def shown(self, request: web.Request) -> str:
        """The cookie's value, whatever it is worth."""
        return request.cookies.get(self.cookie, "")

    async def find(self, request: web.Request) -> SignedIn | None:
        """Who is signed in; :class:`ProblemError` while the registry cannot say."""
        value = self.shown(request)
        if not value:
            return None
        found = await self._registry.person(
            people.FindSession(actor="portal", session_hash=_hash(value)), people.SessionFound
        )
        if found.session is None:
            return None
        principal = self._principal(found.session, found.account)
        if principal is None:
            return None
        return SignedIn(found.session, principal, form_key(value))

    def _principal(self, session: people.SessionView, account: people.AccountView | None) -> Principal | None:
        if account is not None:
            return Principal(
                account.name, GRANTS[account.role], Scope(account.pools, account.agents), account.name, account.label
            )
        token = self._tokens.holder_of(session.token_sha256)
        return None if token is None else token.principal

    async def sign_out(self, signed_in: SignedIn) -> None:
        command = people.EndSessions(
            actor=signed_in.principal.actor, who=signed_in.view.who, session_id=signed_in.view.session_id,
            signed_out=True,
        )  # fmt: skip
        try:
            await self._registry.person(command, Written)
        except ProblemError as error:
            if error.status != 404:  # it is over already
                raise

    def set_cookie(self, response: web.StreamResponse, value: str) -> None:
        response.set_cookie(
            self.cookie, value, max_age=LIFETIME_S, httponly=True, samesite="Strict", secure=self.secure, path="/"
        )

    def forget_cookie(self, response: web.StreamResponse) -> None:
        response.del_cookie(self.cookie, path="/", httponly=True, samesite="Strict", secure=self.secure)


def form_key(value: str) -> str:
    """Follows from the cookie, which a stranger's page cannot read, so that nothing more has to be kept."""
    return hmac.digest(value.encode("utf-8", "surrogateescape"), b"forms of this session", "sha256").hex()


def client_of(request: web.Request) -> str:
    text = request.headers.get("User-Agent", "")[:128]
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text)


def _hash(value: str) -> bytes:
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).digest()
