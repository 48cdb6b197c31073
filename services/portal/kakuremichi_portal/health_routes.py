"""Liveness, readiness, metrics and the API's own description."""

from collections.abc import Callable
from ipaddress import ip_address

from aiohttp import web

from kakuremichi.wire import commands
from kakuremichi_portal import metrics
from kakuremichi_portal.access import Tokens, bearer
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import API, Access, Call, Route, json_response
from kakuremichi_portal.shapes import Health

READY_TIMEOUT_S = 1.0


class HealthRoutes:
    def __init__(
        self, registry: Registry, tokens: Tokens, figures: metrics.Metrics, document: Callable[[], bytes]
    ) -> None:
        self._registry, self._tokens, self._figures, self._document = registry, tokens, figures, document

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/healthz", "live", "The process answers.", Access.OPEN, self.live, {200: Health}),
            Route("GET", "/readyz", "ready", "The registry answers through the bus.", Access.OPEN,
                  self.ready, {200: Health, 503: Health}),
            Route("GET", "/metrics", "metrics", "Prometheus metrics; from loopback without a token.", Access.OPEN,
                  self.metrics, {200: "text/plain"}, refusals=(401,)),
            Route("GET", f"{API}/openapi.json", "describe", "This document.", Access.READ,
                  self.describe, {200: "application/json"}),
        )  # fmt: skip

    async def live(self, _call: Call) -> web.Response:
        return json_response(Health(status="ok"))

    async def ready(self, _call: Call) -> web.Response:
        try:
            command = commands.ListEvents(actor="portal", limit=1)
            await self._registry.ask(command, commands.Events, timeout_s=READY_TIMEOUT_S)
        except ProblemError as error:
            return json_response(Health(status="unavailable", detail=error.detail), 503)
        return json_response(Health(status="ok"))

    async def metrics(self, call: Call) -> web.Response:
        if not _is_loopback(call.source):
            bearer(call.request, self._tokens)
        return web.Response(body=self._figures.text(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def describe(self, _call: Call) -> web.Response:
        return web.Response(body=self._document(), content_type="application/json")


def _is_loopback(source: str) -> bool:
    try:
        return ip_address(source).is_loopback
    except ValueError:
        return False
