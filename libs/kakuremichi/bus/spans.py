"""Spans around what is sent and handled, and the trace context in message headers.

Names and attributes follow OpenTelemetry's messaging conventions (v1.44, "Development") with `messaging.system=nats`.
Destinations are templates, never the subject itself: ids do not belong in names.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from kakuremichi.bus.port import Headers, Message
from kakuremichi.bus.subject import template
from kakuremichi.runtime.sampling import may_be_recorded, unrecorded
from kakuremichi.runtime.trace_context import TRACEPARENT, extract, inject

MESSAGE_ID = "Nats-Msg-Id"
_ANSWERS = ("_INBOX.", "reply.")  # who asked knows the trace

_tracer = trace.get_tracer("kakuremichi.bus")


def start_send(operation: str, subject: str, size: int, headers: Headers | None) -> tuple[Span, dict[str, str]]:
    """A started span for one message and the headers to send with it.

    A `traceparent` that the caller gives is the parent: the relay publishes on behalf of an older write. Where nothing
    is recorded the parent itself stands for the span: its trace's id is all that is needed.
    """
    sent = dict(headers or {})
    parent = extract(sent) if TRACEPARENT in sent else None
    if not may_be_recorded(parent):
        if parent is None and not subject.startswith(_ANSWERS):
            inject(sent)
        return trace.INVALID_SPAN, sent
    destination = template(subject)
    attributes: dict[str, str | int] = {
        "messaging.system": "nats",
        "messaging.operation.name": operation,
        "messaging.operation.type": "send",
        "messaging.destination.template": destination,
        "messaging.message.body.size": size,
    }
    if MESSAGE_ID in sent:
        attributes["messaging.message.id"] = sent[MESSAGE_ID]
    kind = SpanKind.CLIENT if operation == "request" else SpanKind.PRODUCER
    span = _tracer.start_span(f"{operation} {destination}", context=parent, kind=kind, attributes=attributes)
    inject(sent, trace.set_span_in_context(span, parent))
    return span, sent


def end_send(span: Span, error: BaseException | None = None) -> None:
    if error is not None:
        span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
    span.end()


@contextmanager
def sending(operation: str, subject: str, size: int, headers: Headers | None) -> Iterator[dict[str, str]]:
    span, sent = start_send(operation, subject, size, headers)
    try:
        yield sent
    except BaseException as error:
        end_send(span, error)
        raise
    end_send(span)


@contextmanager
def handling(message: Message, queue: str) -> Iterator[None]:
    """The span of one handler, child of the span that sent the message: one trace from the request to the kernel."""
    parent = extract(message.headers)
    if not may_be_recorded(parent):
        token = attach(unrecorded(parent))
        try:
            yield
        finally:
            detach(token)
        return
    destination = template(message.subject)
    attributes: dict[str, str | int] = {
        "messaging.system": "nats",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.template": destination,
        "messaging.message.body.size": len(message.data),
    }
    if queue:
        attributes["messaging.consumer.group.name"] = queue
    with _tracer.start_as_current_span(
        f"process {destination}", context=parent, kind=SpanKind.CONSUMER, attributes=attributes
    ):
        yield
