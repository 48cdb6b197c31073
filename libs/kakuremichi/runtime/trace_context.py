"""The W3C trace context as text: in message and HTTP headers, and in a database column beside the write."""

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager

from opentelemetry import context as active
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT = "traceparent"

_propagator = TraceContextTextMapPropagator()


def inject(headers: MutableMapping[str, str], context: Context | None = None) -> None:
    """Write the current trace context, or `context`, into `headers`; nothing if there is none."""
    _propagator.inject(headers, context=context)


def extract(headers: Mapping[str, str]) -> Context:
    """The trace context in `headers`, whatever the current one is; empty if absent or malformed."""
    if TRACEPARENT not in headers:
        return Context()
    return _propagator.extract(headers, context=Context())


def current_traceparent() -> str:
    """The current context as `traceparent`, "" if there is none: what a write keeps for whoever publishes it."""
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get(TRACEPARENT, "")


def trace_id(traceparent: str) -> str:
    """The 32 hex digits of the trace, "" if `traceparent` is not one."""
    span = trace.get_current_span(extract({TRACEPARENT: traceparent})).get_span_context()
    return trace.format_trace_id(span.trace_id) if span.is_valid else ""


@contextmanager
def continued(traceparent: str) -> Iterator[None]:
    """Spans started inside are children of `traceparent`; of nothing if it is not one."""
    token = active.attach(extract({TRACEPARENT: traceparent}))
    try:
        yield
    finally:
        active.detach(token)
