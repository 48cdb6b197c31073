"""Signing in with an OpenID Connect provider: authorization code, PKCE, state and nonce (RFC 7636, RFC 9700)."""

import base64
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from urllib.parse import urlencode

import structlog
from aiohttp import web
from joserfc.errors import JoseError
from msgspec import Struct

from kakuremichi.wire import people
from kakuremichi.wire.codec import WireError, decode, encode
from kakuremichi.wire.commands import Written
from kakuremichi_portal.limits import AttemptLimit
from kakuremichi_portal.oidc_provider import Provider, ProviderError
from kakuremichi_portal.oidc_token import IdTokenError, OidcConfig, Person, check_id_token, person_of
from kakuremichi_portal.pages import HTML, Pages, local_path, see
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import Access, Call, Query, Route
from kakuremichi_portal.sessions import Sessions
from kakuremichi_portal.sign_in_routes import NEXT, SignInRoutes

log = structlog.get_logger()

START, CALLBACK = "/sign-in/oidc", "/sign-in/oidc/callback"
COOKIE, PLAIN_COOKIE = "__Host-kakuremichi_oidc", "kakuremichi_oidc"
WITHIN_S = 600
MOST_USED = 4096
REFUSED = "The provider did not let you in here. Try again, or ask an administrator."
# What providers send along; anything else is refused as everywhere.
ANSWERS = tuple(
    Query(name, "As the provider says it.", {"type": "string"})
    for name in (
        "code", "state", "iss", "error", "error_description", "error_uri", "session_state", "scope", "authuser", "hd",
        "prompt",
    )
)  # fmt: skip


class Begun(Struct, frozen=True):
    """A sign-in on its way. The browser keeps it, so any portal can end what another began."""

    state: str
    nonce: str
    verifier: str
    goal: str
    at: float


class OidcRoutes:
    def __init__(
        self, config: OidcConfig, registry: Registry, sessions: Sessions, pages: Pages, sign_in: SignInRoutes, *,
        limit: AttemptLimit, url: str,
    ) -> None:  # fmt: skip
        self._config, self._registry, self._sessions, self._pages = config, registry, sessions, pages
        self._sign_in, self._limit, self._redirect_uri = sign_in, limit, f"{url}{CALLBACK}"
        self._provider = Provider(config)
        self._cookie = COOKIE if sessions.secure else PLAIN_COOKIE
        self._used: OrderedDict[str, None] = OrderedDict()

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", START, "startOidc", "Go to the OpenID Connect provider.", Access.OPEN,
                  self.start, {303: "", 503: HTML}, query=(NEXT,), refusals=(429,)),
            Route("GET", CALLBACK, "finishOidc", "Come back from there.", Access.OPEN,
                  self.finish, {200: HTML, 401: HTML, 503: HTML}, query=ANSWERS, refusals=(429,)),
        )  # fmt: skip

    async def start(self, call: Call) -> web.Response:
        self._limit.count(call.source)
        begun = Begun(
            state=secrets.token_urlsafe(24), nonce=secrets.token_urlsafe(24), verifier=secrets.token_urlsafe(48),
            goal=local_path(call.request.query.get("next", "/")), at=time.time(),
        )  # fmt: skip
        try:
            endpoint = (await self._provider.metadata()).authorization_endpoint
        except ProviderError as error:
            return self._unreachable(error)
        query = {
            "response_type": "code", "client_id": self._config.client_id, "redirect_uri": self._redirect_uri,
            "scope": " ".join(self._config.scopes), "state": begun.state, "nonce": begun.nonce,
            "code_challenge": _challenge(begun.verifier), "code_challenge_method": "S256",
        }  # fmt: skip
        response = see(f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}")
        # Lax: the provider's answer comes from another site, and a stricter cookie would not come along.
        response.set_cookie(
            self._cookie, base64.urlsafe_b64encode(encode(begun)).decode(), max_age=WITHIN_S, httponly=True,
            samesite="Lax", secure=self._sessions.secure, path="/",
        )  # fmt: skip
        return response

    async def finish(self, call: Call) -> web.Response:
        self._limit.count(call.source)
        begun = self._begun(call.request)
        try:
            account = await self._account(call, begun)
            value = await self._sessions.open_account(call, account, "oidc")
        except ProviderError as error:
            response = self._unreachable(error)
        except IdTokenError as error:
            await self._sign_in.note_failure(call, f"oidc: {error}"[:400])
            response = self._pages.html("oidc_refused.html", 401, trouble=REFUSED)
        except ProblemError as error:
            response = self._pages.html("oidc_refused.html", max(401, min(error.status, 503)), trouble=error.detail)
        else:
            # Not a redirect: after one that began at another site the browser would keep the Strict cookie to itself.
            page = self._pages.html("signed_in.html", 200, goal=begun.goal if begun else "/")
            response = await self._sign_in.let_in(call, value, page)
        response.del_cookie(self._cookie, path="/", httponly=True, samesite="Lax", secure=self._sessions.secure)
        return response

    async def _account(self, call: Call, begun: Begun | None) -> people.AccountView:
        """Whoever the provider says this is; :class:`IdTokenError` unless everything fits."""
        code = self._take_answer(call.request, begun)
        if begun is None:  # said by _take_answer already; here for the type
            raise IdTokenError("state: is missing")
        token = await self._provider.redeem(code, begun.verifier, self._redirect_uri)
        claims = await self._claims(token, begun.nonce)
        person = person_of(claims, self._config)
        if person is None:
            raise IdTokenError(f"{self._config.claim}: no rule gives a role to what it says")
        return await self._put(person)

    def _take_answer(self, request: web.Request, begun: Begun | None) -> str:
        """The code, of an answer to what this browser began, once."""
        query = request.query
        state = query.get("state", "")
        if begun is None or not hmac.compare_digest(begun.state.encode(), state.encode("utf-8", "surrogateescape")):
            raise IdTokenError("state: is not that of this browser")
        if not 0 <= time.time() - begun.at <= WITHIN_S:
            raise IdTokenError("state: is too old")
        if state in self._used:
            raise IdTokenError("state: was used already")
        self._used[state] = None
        while len(self._used) > MOST_USED:
            self._used.popitem(last=False)
        if query.get("iss", self._config.issuer) != self._config.issuer:
            raise IdTokenError("iss: the answer is another issuer's")
        if "error" in query or not query.get("code"):
            raise IdTokenError(f"provider: {query.get('error', 'no code')[:64]}")
        return query["code"]

    def _begun(self, request: web.Request) -> Begun | None:
        try:
            return decode(base64.urlsafe_b64decode(request.cookies.get(self._cookie, "")), Begun)
        except (ValueError, WireError):
            return None

    async def _claims(self, token: str, nonce: str) -> dict[str, object]:
        try:
            return check_id_token(token, await self._provider.keys(), self._config, nonce=nonce, now=time.time())
        except IdTokenError as error:
            if not isinstance(error.__cause__, JoseError | ValueError):
                raise
            keys = await self._provider.keys(fresh=True)  # the provider may sign with a new key since
            return check_id_token(token, keys, self._config, nonce=nonce, now=time.time())

    async def _put(self, person: Person) -> people.AccountView:
        """Its account here, made or brought to what the provider says; a disabled one stays disabled."""
        name = "oidc-" + hashlib.sha256(person.subject.encode()).hexdigest()[:16]
        query = people.FindAccount(actor="portal", name=name)
        seen = (await self._registry.person(query, people.AccountFound)).account
        if seen is not None and seen.disabled:
            raise IdTokenError(f"account {name}: is disabled")
        rule = person.rule
        command = people.PutAccount(
            actor=f"person/{name}", name=name, label=person.label, role=rule.role, pools=rule.pools,
            agents=rule.agents, subject=person.subject, seen_version=seen.version if seen else 0,
        )  # fmt: skip
        await self._registry.person(command, Written)
        found = (await self._registry.person(query, people.AccountFound)).account
        if found is None:
            raise IdTokenError(f"account {name}: was removed at once")
        return found

    def _unreachable(self, error: ProviderError) -> web.Response:
        log.warning("oidc provider", reason=str(error))
        return self._pages.html("oidc_refused.html", 503, trouble="The provider does not answer as it should.")


def _challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
