"""The pages for people: sign in, the status page, sign out. Read only; everything that writes is the API's."""

import asyncio
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.resources import files
from urllib.parse import urlsplit

import jinja2
from aiohttp import web

from kakuremichi.wire import commands
from kakuremichi_portal import page_view
from kakuremichi_portal.access import Tokens
from kakuremichi_portal.limits import AttemptLimit
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import Access, Call, Query, Route
from kakuremichi_portal.sessions import COOKIE, Sessions, set_cookie

HTML = "text/html"
FORM = "application/x-www-form-urlencoded"
EVENTS_SHOWN = 12
REFRESH_S = 5
REFRESH = Query("refresh", "`off` keeps the page as it is.", {"enum": ["off"]})


class PageRoutes:
    def __init__(
        self,
        registry: Registry,
        tokens: Tokens,
        limit: AttemptLimit,
        *,
        secure: bool,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._registry, self._tokens, self._limit, self._secure, self._now = registry, tokens, limit, secure, now
        self.sessions = Sessions(tokens)
        self._style = (files("kakuremichi_portal") / "static" / "portal.css").read_bytes()
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("kakuremichi_portal"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._style_path = f"/static/{hashlib.sha256(self._style).hexdigest()[:12]}/portal.css"
        self._templates.globals.update(style_path=self._style_path, refresh_s=REFRESH_S)

    def routes(self) -> tuple[Route, ...]:
        session = Access.SESSION
        return (
            Route("GET", "/", "statusPage", "The status page.", session,
                  self.status, {200: HTML, 303: "", 503: HTML}, query=(REFRESH,)),
            Route("GET", "/sign-in", "signInPage", "The sign-in form.", Access.OPEN, self.form, {200: HTML}),
            Route("POST", "/sign-in", "signIn", "A session for an API token.", Access.OPEN,
                  self.sign_in, {303: "", 401: HTML}, FORM, refusals=(403, 413, 415, 429)),
            Route("POST", "/sign-out", "signOut", "End the session.", session,
                  self.sign_out, {303: ""}, FORM, refusals=(403, 413, 415)),
            Route("GET", self._style_path, "style", "The style sheet; its path changes with it.", Access.OPEN,
                  self.style, {200: "text/css"}),
        )  # fmt: skip

    async def status(self, call: Call) -> web.Response:
        found = self.sessions.find(call.request)
        if found is None:
            return _see("/sign-in")
        session, principal = found
        shown = {"caller": principal, "form_key": session.form_key, "now": self._now(), "trace_id": call.trace_id}
        refresh = call.request.query.get("refresh") != "off"
        try:
            page = await self._page(principal.name)
        except ProblemError as error:
            return self._html("status.html", 503, page=None, trouble=error.detail, refresh=refresh, **shown)
        return self._html("status.html", 200, page=page, trouble="", refresh=refresh, **shown)

    async def _page(self, actor: str) -> page_view.Page:
        registry = self._registry
        latest = commands.ListEvents(actor=actor, limit=EVENTS_SHOWN, newest_first=True)
        gateways, agents, services, events = await asyncio.gather(
            registry.nodes(actor, "gateway"),
            registry.nodes(actor, "agent"),
            registry.services(actor),
            registry.ask(latest, commands.Events),
        )
        return page_view.page(gateways, agents, services, events.items, self._now())

    async def form(self, call: Call) -> web.Response:
        if self.sessions.find(call.request) is not None:
            return _see("/")
        return self._html("sign_in.html", 200, trouble="")

    async def sign_in(self, call: Call) -> web.Response:
        refuse_foreign_form(call.request)
        self._limit.count(call.source)
        form = await _read_form(call.request)
        principal = self._tokens.find(form.get("token", "").strip())
        if principal is None:
            return self._html("sign_in.html", 401, trouble="This token is not known. Check that it is whole.")
        response = _see("/")
        set_cookie(response, self.sessions.open(principal), secure=self._secure)
        return response

    async def sign_out(self, call: Call) -> web.Response:
        refuse_foreign_form(call.request)
        form, found = await _read_form(call.request), self.sessions.find(call.request)
        if found is not None and form.get("form_key") != found[0].form_key:
            raise ProblemError(403, "foreign-form", "form_key: this form is not of this session", field="form_key")
        self.sessions.close(call.request)
        response = _see("/sign-in")
        response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict", secure=self._secure)
        return response

    async def style(self, _call: Call) -> web.Response:
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return web.Response(body=self._style, content_type="text/css", charset="utf-8", headers=headers)

    def _html(self, template: str, status: int, **shown: object) -> web.Response:
        text = self._templates.get_template(template).render(shown)
        return web.Response(text=text, status=status, content_type=HTML)


def refuse_foreign_form(request: web.Request) -> None:
    """The cookie is SameSite=Strict already; this also keeps strangers' pages from signing somebody in as them."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site", "same-origin")
    if site not in ("same-origin", "none") or (origin is not None and urlsplit(origin).netloc != request.host):
        raise ProblemError(403, "foreign-form", "origin: forms are taken from the portal's own pages only")


def _see(path: str) -> web.Response:
    return web.Response(status=303, headers={"Location": path})


async def _read_form(request: web.Request) -> dict[str, str]:
    if request.content_type != FORM:
        raise ProblemError(415, "media-type", f"content-type: {FORM} is needed")
    return {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
