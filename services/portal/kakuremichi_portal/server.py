"""From the route table to an aiohttp application: span, access, refusals and headers, the same for every route."""

import time
from collections.abc import Awaitable, Callable, Sequence

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from kakuremichi_portal import problems, tracing
from kakuremichi_portal.decoding import MAX_BODY_BYTES, refuse_unknown_query
from kakuremichi_portal.gate import Gate
from kakuremichi_portal.metrics import Metrics
from kakuremichi_portal.pages import Pages, see, sign_in_path
from kakuremichi_portal.parser_log import hide_unparsed_bytes
from kakuremichi_portal.principal import EVERYTHING, within
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.route import Access, Call, Route

log = structlog.get_logger()

CALL = web.RequestKey("call", Call)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: with it browsers send `Origin: null` with our own forms too (Fetch, "append a request Origin
    # header"), and a form of our own could not be told from a stranger's.
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
# Whatever a page does not name is refused: there is no script at all, so none can be injected.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(routes: Sequence[Route], gate: Gate, pages: Pages, metrics: Metrics) -> web.Application:
    hide_unparsed_bytes()
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_outermost(metrics)])
    for route in routes:
        app.router.add_route(route.method, route.path, _served(route, gate, pages))
    app.on_response_prepare.append(_add_headers)
    return app


def _served(route: Route, gate: Gate, pages: Pages) -> Next:
    known = tuple(query.name for query in route.query)

    async def handle(request: web.Request) -> web.StreamResponse:
        call = request[CALL]
        try:
            principal, signed_in = await gate.admit(route, request)
        except ProblemError as error:
            if route.access is Access.SESSION and error.status >= 500:
                return pages.html("unreachable.html", 503, trouble=error.detail)
            raise
        if route.access is Access.SESSION and principal is None:
            return see(sign_in_path(request))
        refuse_unknown_query(request, known)
        call = Call(request, call.arrived_s, call.trace_id, principal, signed_in)
        request[CALL] = call
        with within(principal.scope if principal else EVERYTHING):
            return await route.handler(call)

    return handle


def _outermost(metrics: Metrics) -> Middleware:
    @web.middleware
    async def outermost(request: web.Request, handler: Next) -> web.StreamResponse:
        arrived = time.monotonic()
        with tracing.server_span(request) as span:
            trace_id = tracing.trace_id_of(span)
            request[CALL] = Call(request, arrived, trace_id)
            response = await _answer(request, handler, trace_id)
            tracing.answered(span, response.status)
            if trace_id:
                response.headers["X-Trace-Id"] = trace_id
            seconds = time.monotonic() - arrived
            metrics.answered(request.method, tracing.route_of(request), response.status, seconds)
            _log(request, response.status, seconds)
        return response

    return outermost


async def _answer(request: web.Request, handler: Next, trace_id: str) -> web.StreamResponse:
    try:
        return await handler(request)
    except ProblemError as error:
        return problems.response(error, trace_id)
    except web.HTTPException as error:
        return problems.response(problems.from_http(error), trace_id)
    except Exception:
        # The sentence for the client says nothing of the inside; the log has the whole story under the same trace.
        log.exception("request failed", route=tracing.route_of(request))
        failure = ProblemError(500, "internal", "the portal failed here; its log has this trace id")
        return problems.response(failure, trace_id)


def _log(request: web.Request, status: int, seconds: float) -> None:
    principal = request[CALL].principal
    log.info(
        "request",
        method=request.method,
        route=tracing.route_of(request),
        status=status,
        took_ms=round(seconds * 1000, 1),
        caller=principal.actor if principal else "",
    )


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["Server"] = "kakuremichi"  # which Python it is, is nobody's business
