"""Who may come in to which route: the same few steps for every one of them."""

from aiohttp import web

from kakuremichi_portal.access import Tokens, bearer, refuse_below
from kakuremichi_portal.pages import SAFE, read_form, refuse_foreign_form, refuse_foreign_key
from kakuremichi_portal.principal import AccessRole, Principal, SignedIn
from kakuremichi_portal.route import Access, Route
from kakuremichi_portal.scoping import refuse_unscoped
from kakuremichi_portal.sessions import Sessions

NEEDED: dict[Access, AccessRole] = {Access.READ: "read", Access.WRITE: "publish", Access.ADMIN: "admin"}


class Gate:
    def __init__(self, tokens: Tokens, sessions: Sessions) -> None:
        self._tokens, self._sessions = tokens, sessions

    async def admit(self, route: Route, request: web.Request) -> tuple[Principal | None, SignedIn | None]:
        """Who calls; :class:`ProblemError` for whoever may not. A page's caller without a session is None."""
        if route.access is Access.OPEN:
            return None, None
        if route.access is Access.SESSION:
            principal, signed_in = await self._page_caller(request)
        else:
            principal, signed_in = await self._api_caller(request)
            refuse_below(NEEDED[route.access], principal)
        if principal is not None:
            refuse_unscoped(route.operation, principal.scope)
        return principal, signed_in

    async def _api_caller(self, request: web.Request) -> tuple[Principal, SignedIn | None]:
        """By token; else by the cookie, which a browser sends along whoever made it ask."""
        if "Authorization" not in request.headers:
            signed_in = await self._sessions.find(request)
            if signed_in is not None:
                if request.method not in SAFE:
                    refuse_foreign_form(request, told=True)
                return signed_in.principal, signed_in
        return bearer(request, self._tokens), None

    async def _page_caller(self, request: web.Request) -> tuple[Principal | None, SignedIn | None]:
        writes = request.method not in SAFE
        if writes:
            refuse_foreign_form(request)
        signed_in = await self._sessions.find(request)
        if signed_in is None:
            return None, None
        if writes:
            refuse_foreign_key(await read_form(request), signed_in.form_key)
        return signed_in.principal, signed_in
