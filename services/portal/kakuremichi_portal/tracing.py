"""The server span of a request: continued from the caller's `traceparent`, and named by the route's template."""

from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_tracer = trace.get_tracer("kakuremichi.portal")
_propagator = TraceContextTextMapPropagator()


def route_of(request: web.Request) -> str:
    """The template of the request's route; "unmatched" for what no route is for, as paths are no names for spans."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unmatched"


@contextmanager
def server_span(request: web.Request) -> Iterator[Span]:
    route = route_of(request)
    parent = _propagator.extract({name.lower(): value for name, value in request.headers.items()})
    attributes = {"http.request.method": request.method, "http.route": route, "url.scheme": request.scheme}
    name = f"{request.method} {route}"
    with _tracer.start_as_current_span(name, parent, kind=SpanKind.SERVER, attributes=attributes) as span:
        yield span


def answered(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))


def trace_id_of(span: Span) -> str:
    """32 hex digits, or "" where nothing traces."""
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""
