"""The status page, and the style sheet and icon of all pages. Read only: what writes to the fleet is the API's."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from aiohttp import web

from kakuremichi.wire import commands
from kakuremichi_portal import page_view
from kakuremichi_portal.pages import HTML, Pages
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import Access, Call, Query, Route

EVENTS_SHOWN = 12
FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}
REFRESH = Query("refresh", "`off` keeps the page as it is.", {"enum": ["off"]})


class PageRoutes:
    def __init__(
        self, registry: Registry, pages: Pages, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._registry, self._pages, self._now = registry, pages, now

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/", "statusPage", "The status page.", Access.SESSION,
                  self.status, {200: HTML, 303: "", 503: HTML}, query=(REFRESH,)),
            Route("GET", self._pages.style_path, "style", "The style sheet; its path changes with it.", Access.OPEN,
                  self.style, {200: "text/css"}),
            Route("GET", self._pages.icon_path, "icon", "The icon; its path changes with it.", Access.OPEN,
                  self.icon, {200: "image/svg+xml"}),
        )  # fmt: skip

    async def status(self, call: Call) -> web.Response:
        try:
            page = await self._page(call.actor)
        except ProblemError as error:
            return self._pages.html("unreachable.html", 503, trouble=error.detail)
        return self._pages.html(
            "status.html", 200, page=page, refresh=call.request.query.get("refresh") != "off",
            caller=call.session.principal, form_key=call.session.form_key, now=self._now(), trace_id=call.trace_id,
        )  # fmt: skip

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

    async def style(self, _call: Call) -> web.Response:
        return web.Response(body=self._pages.style, content_type="text/css", charset="utf-8", headers=FOREVER)

    async def icon(self, _call: Call) -> web.Response:
        return web.Response(body=self._pages.icon, content_type="image/svg+xml", headers=FOREVER)
