"""The portal put together: what each part is given, and the whole route table."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

from aiohttp import web

from kakuremichi.bus.port import Bus
from kakuremichi_portal import openapi
from kakuremichi_portal.access import Tokens
from kakuremichi_portal.api_token_routes import ApiTokenRoutes
from kakuremichi_portal.enrol_routes import EnrolRoutes
from kakuremichi_portal.event_routes import EventRoutes
from kakuremichi_portal.health_routes import HealthRoutes
from kakuremichi_portal.limits import AttemptLimit
from kakuremichi_portal.metrics import Metrics
from kakuremichi_portal.node_routes import NodeRoutes
from kakuremichi_portal.page_routes import PageRoutes
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.renew_routes import RenewRoutes
from kakuremichi_portal.reports import Reports
from kakuremichi_portal.route import Route
from kakuremichi_portal.server import application
from kakuremichi_portal.service_routes import ServiceRoutes
from kakuremichi_portal.token_routes import JoinAnchor, TokenRoutes
from kakuremichi_portal.trust_routes import TrustRoutes


@dataclass(frozen=True, slots=True)
class Parts:
    """What a portal is made of. `node_nats_url` is where nodes find NATS."""

    bus: Bus
    tokens: Tokens
    anchor: JoinAnchor
    node_nats_url: str
    ca: bytes = b""  # the deployment's own CA certificate, PEM
    registry_timeout_s: float = 5.0
    enrol_burst: int = 20
    renew_burst: int = 20
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
    enrol_limit = AttemptLimit(burst=parts.enrol_burst, every_s=2)
    routes: tuple[Route, ...] = (
        *ServiceRoutes(registry, reports).routes(),
        *NodeRoutes("gateway", registry, reports).routes(),
        *NodeRoutes("agent", registry, reports).routes(),
        *TokenRoutes(registry, parts.anchor).routes(),
        *EventRoutes(registry).routes(),
        *TrustRoutes(registry).routes(),
        *ApiTokenRoutes(parts.tokens).routes(),
        *EnrolRoutes(registry, enrol_limit, parts.node_nats_url, parts.ca).routes(),
        *RenewRoutes(registry, AttemptLimit(burst=parts.renew_burst, every_s=2)).routes(),
        *HealthRoutes(registry, parts.tokens, metrics, describe).routes(),
        *PageRoutes(registry, parts.tokens, sign_in_limit, secure=secure).routes(),
    )
    return Portal(application(routes, parts.tokens, metrics), reports, routes, describe)
