"""Logs: JSON lines unless a person is watching, library logs through the same, trace ids on every line."""

import logging
import sys
from typing import TextIO

import structlog
from opentelemetry import trace
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

# CPython says this at each end of a TLS connection that the peer closed first; it means nothing.
_NOISE = "returning true from eof_received() has no effect when using ssl"

# Never with local variables, which both defaults of structlog show: a key or a password may be among them.
_exceptions = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))


def setup_logs(service: str, *, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send our logs and those of libraries to `stream` (standard error), one line each; `level` is a name."""
    stream = sys.stderr if stream is None else stream
    shared = _processors(service)
    rendered: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if stream.isatty():
        rendered.append(structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback))
    else:
        rendered += [_exceptions, structlog.processors.JSONRenderer(ensure_ascii=False)]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=rendered))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    asyncio_logger = logging.getLogger("asyncio")
    if _is_no_noise not in asyncio_logger.filters:
        asyncio_logger.addFilter(_is_no_noise)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def add_trace_ids(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put `trace_id` and `span_id` (hex, W3C) on the line if a span is current."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event


def _processors(service: str) -> list[Processor]:
    def add_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {"service": service, **event}

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        add_service,
        add_trace_ids,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.StackInfoRenderer(),
    ]


def _is_no_noise(record: logging.LogRecord) -> bool:
    return _NOISE not in record.getMessage()
