"""The portal put together: what each part is given, and the whole route table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

from aiohttp import web

from kakuremichi.bus.port import Bus
from kakuremichi.wire.enrolment import BusAccess
from kakuremichi.wire.identity import Role
from kakuremichi_portal import openapi
from kakuremichi_portal.access import Tokens
from kakuremichi_portal.enrol_routes import EnrolRoutes
from kakuremichi_portal.event_routes import EventRoutes
from kakuremichi_portal.health_routes import HealthRoutes
from kakuremichi_portal.limits import AttemptLimit
from kakuremichi_portal.metrics import Metrics
from kakuremichi_portal.node_routes import NodeRoutes
from kakuremichi_portal.page_routes import PageRoutes
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.reports import Reports
from kakuremichi_portal.route import Route
from kakuremichi_portal.server import application
from kakuremichi_portal.service_routes import ServiceRoutes
from kakuremichi_portal.token_routes import JoinAnchor, TokenRoutes


@dataclass(frozen=True, slots=True)
class Parts:
    """What a portal is made of. `bus_access` is what nodes of each role are given to reach NATS."""

    bus: Bus
    tokens: Tokens
    anchor: JoinAnchor
    bus_access: Mapping[Role, BusAccess]
    registry_timeout_s: float = 5.0
    enrol_burst: int = 20
    sign_in_burst: int = 10


@dataclass(frozen=True, slots=True)
class Portal:
    app: web.Application
    reports: Reports
    routes: tuple[Route, ...]
    describe: Callable[[], bytes]


def build(parts: Parts) -> Portal:
    """The application; `reports.listen()` is for the caller, once the bus is there."""
    registry = Registry(parts.bus, timeout_s=parts.registry_timeout_s)
    reports = Reports(parts.bus, registry)
    metrics = Metrics(nodes_heard=reports.count_live, reports_refused=lambda: reports.refused)

    @cache
    def describe() -> bytes:
        return openapi.document(routes, version("kakuremichi"))

    secure = parts.anchor.url.startswith("https://")
    sign_in_limit = AttemptLimit(burst=parts.sign_in_burst, every_s=3)
    routes: tuple[Route, ...] = (
        *ServiceRoutes(registry, reports).routes(),
        *NodeRoutes("gateway", registry, reports).routes(),
        *NodeRoutes("agent", registry, reports).routes(),
        *TokenRoutes(registry, parts.anchor).routes(),
        *EventRoutes(registry).routes(),
        *EnrolRoutes(registry, AttemptLimit(burst=parts.enrol_burst, every_s=2), parts.bus_access).routes(),
        *HealthRoutes(registry, parts.tokens, metrics, describe).routes(),
        *PageRoutes(registry, parts.tokens, sign_in_limit, secure=secure).routes(),
    )
    return Portal(application(routes, parts.tokens, metrics), reports, routes, describe)
