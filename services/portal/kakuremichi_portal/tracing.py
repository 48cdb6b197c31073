"""The server span of a request: continued from the caller's `traceparent`, and named by the route's template."""

from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from kakuremichi.runtime.trace_context import extract

_tracer = trace.get_tracer("kakuremichi.portal")
_FIELDS = ("traceparent", "tracestate")


def route_of(request: web.Request) -> str:
    """The template of the request's route; "unmatched" for what no route is for, as paths are no names for spans."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unmatched"


@contextmanager
def server_span(request: web.Request) -> Iterator[Span]:
    route = route_of(request)
    parent = extract({name: request.headers[name] for name in _FIELDS if name in request.headers})
    attributes = {"http.request.method": request.method, "http.route": route, "url.scheme": request.scheme}
    span = _tracer.start_span(f"{request.method} {route}", parent, kind=SpanKind.SERVER, attributes=attributes)
    token = attach(trace.set_span_in_context(span, parent))
    try:
        yield span
    finally:
        detach(token)
        span.end()


def answered(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))


def trace_id_of(span: Span) -> str:
    """32 hex digits, or "" where nothing traces."""
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""
