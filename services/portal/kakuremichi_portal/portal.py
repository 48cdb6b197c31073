"""The portal put together: what each part is given, and the whole route table."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

from aiohttp import web

from kakuremichi.bus.port import Bus, Subscription
from kakuremichi.bus.topology import ARRIVALS, NODE_TRACES, TRACES
from kakuremichi.runtime.metrics import Sample
from kakuremichi_portal import metrics as figures
from kakuremichi_portal import openapi
from kakuremichi_portal.access import Tokens
from kakuremichi_portal.account_page import AccountPage
from kakuremichi_portal.account_routes import AccountRoutes
from kakuremichi_portal.account_writing import AccountWriting
from kakuremichi_portal.accounts_page import AccountsPage
from kakuremichi_portal.api_token_routes import ApiTokenRoutes
from kakuremichi_portal.counters import Counters
from kakuremichi_portal.counters_routes import CountersRoutes
from kakuremichi_portal.enrol_routes import EnrolRoutes
from kakuremichi_portal.event_routes import EventRoutes
from kakuremichi_portal.gate import Gate
from kakuremichi_portal.health_routes import HealthRoutes
from kakuremichi_portal.history_routes import HistoryRoutes
from kakuremichi_portal.limits import AttemptLimit
from kakuremichi_portal.live import Live
from kakuremichi_portal.live_routes import LiveRoutes
from kakuremichi_portal.metrics import Metrics
from kakuremichi_portal.node_routes import NodeRoutes
from kakuremichi_portal.oidc_routes import OidcRoutes
from kakuremichi_portal.oidc_token import OidcConfig
from kakuremichi_portal.page_routes import PageRoutes
from kakuremichi_portal.pages import Pages
from kakuremichi_portal.passwords import Passwords
from kakuremichi_portal.past import Past
from kakuremichi_portal.places import lookup
from kakuremichi_portal.propagation_routes import PropagationRoutes
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.renew_routes import RenewRoutes
from kakuremichi_portal.reports import Reports
from kakuremichi_portal.route import Route
from kakuremichi_portal.server import application
from kakuremichi_portal.service_routes import ServiceRoutes
from kakuremichi_portal.session_routes import SessionRoutes
from kakuremichi_portal.sessions import Sessions
from kakuremichi_portal.sign_in_routes import SignInRoutes
from kakuremichi_portal.token_routes import JoinAnchor, TokenRoutes
from kakuremichi_portal.trace_routes import TraceRoutes
from kakuremichi_portal.traces import Traces
from kakuremichi_portal.trust_routes import TrustRoutes


@dataclass(frozen=True, slots=True)
class Parts:
    """What a portal is made of. `node_nats_url` is where nodes find NATS."""

    bus: Bus
    tokens: Tokens
    anchor: JoinAnchor
    node_nats_url: str
    ca: bytes = b""  # the deployment's own CA certificate, PEM
    oidc: OidcConfig | None = None
    registry_timeout_s: float = 5.0
    enrol_burst: int = 20
    renew_burst: int = 20
    sign_in_burst: int = 10  # attempts of one address
    account_burst: int = 50  # failed ones at one account: slows guessing, and strangers lock nobody out for long


@dataclass(frozen=True, slots=True)
class Portal:
    app: web.Application
    reports: Reports
    routes: tuple[Route, ...]
    describe: Callable[[], bytes]
    live: Live
    traces: Traces
    metrics: Metrics
    past: Past
    counters: Counters

    async def listen(self, bus: Bus) -> tuple[Subscription, ...]:
        """To the nodes' reports and counters, to the log and to spans, which wait until `past` has been read."""
        spans = await self.traces.listen(bus, after=self.past.tried)
        return await self.reports.listen(), await self.counters.listen(), await self.live.listen(bus), spans


def build(parts: Parts) -> Portal:
    """The application; `reports.listen()` is for the caller, once the bus is there."""
    registry = Registry(parts.bus, timeout_s=parts.registry_timeout_s)
    reports, counters = Reports(parts.bus, registry), Counters(parts.bus)
    live, traces = Live(lookup(registry)), Traces()
    reports.heard = live.hear_report
    metrics = Metrics(lambda: _samples(reports, live, traces))
    stored = {TRACES.name: traces.take, NODE_TRACES.name: traces.join, ARRIVALS.name: reports.learn}

    @cache
    def describe() -> bytes:
        return openapi.document(routes, version("kakuremichi"))

    secure = parts.anchor.url.startswith("https://")
    pages, passwords = Pages(), Passwords()
    accounts = AccountWriting(registry, passwords)
    sessions = Sessions(registry, parts.tokens, secure=secure)
    addresses = AttemptLimit(burst=parts.sign_in_burst, every_s=3)
    sign_in = SignInRoutes(
        registry, parts.tokens, sessions, pages, addresses=addresses, passwords=passwords,
        accounts=AttemptLimit(burst=parts.account_burst, every_s=10, of="at this account"),
        oidc_label=parts.oidc.label if parts.oidc else "",
    )  # fmt: skip
    enrol_limit = AttemptLimit(burst=parts.enrol_burst, every_s=2)
    routes: tuple[Route, ...] = (
        *ServiceRoutes(registry, reports).routes(),
        *NodeRoutes("gateway", registry, reports).routes(),
        *NodeRoutes("agent", registry, reports).routes(),
        *TokenRoutes(registry, parts.anchor).routes(),
        *EventRoutes(registry).routes(),
        *PropagationRoutes(registry, reports).routes(),
        *TraceRoutes(traces, registry).routes(),
        *CountersRoutes(registry, counters).routes(),
        *LiveRoutes(registry, live).routes(),
        *HistoryRoutes(registry).routes(),
        *TrustRoutes(registry).routes(),
        *ApiTokenRoutes(parts.tokens, registry, live).routes(),
        *AccountRoutes(registry, accounts).routes(),
        *SessionRoutes(registry, parts.anchor.url).routes(),
        *EnrolRoutes(registry, enrol_limit, parts.node_nats_url, parts.ca).routes(),
        *RenewRoutes(registry, AttemptLimit(burst=parts.renew_burst, every_s=2)).routes(),
        *HealthRoutes(registry, parts.tokens, metrics, describe).routes(),
        *PageRoutes(registry, pages).routes(),
        *AccountPage(registry, pages, passwords, AttemptLimit(burst=10, every_s=10, of="at this account")).routes(),
        *AccountsPage(registry, pages, accounts).routes(),
        *sign_in.routes(),
        *_oidc_routes(parts, registry, sessions, pages, sign_in),
    )
    app = application(routes, Gate(parts.tokens, sessions), pages, metrics)
    app.on_shutdown.append(_ending(live))
    return Portal(app, reports, routes, describe, live, traces, metrics, Past(parts.bus, stored), counters)


def _samples(reports: Reports, live: Live, traces: Traces) -> Iterable[Sample]:
    yield figures.HEARD, (), reports.count_live()
    yield figures.REFUSED, (), reports.refused
    yield figures.VIEWS, (), len(live)
    yield figures.CUT, (), live.slow
    yield figures.TRACES, (), len(traces)
    yield figures.SPANS, (), traces.spans
    yield figures.SPANS_REFUSED, (), traces.refused
    yield figures.ARRIVALS, (), len(reports.arrivals)


def _ending(live: Live) -> Callable[[web.Application], Awaitable[None]]:
    async def end(_app: web.Application) -> None:
        live.end()  # the server would wait for their last bytes

    return end


def _oidc_routes(
    parts: Parts, registry: Registry, sessions: Sessions, pages: Pages, sign_in: SignInRoutes
) -> tuple[Route, ...]:
    if parts.oidc is None:
        return ()
    limit = AttemptLimit(burst=parts.sign_in_burst * 2, every_s=3)  # there and back
    return OidcRoutes(parts.oidc, registry, sessions, pages, sign_in, limit=limit, url=parts.anchor.url).routes()
