"""Logs: JSON lines unless a person is watching, library logs through the same, trace ids on every line."""

import logging
import sys
from functools import partial
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
    rendered: list[Processor] = []
    if stream.isatty():
        rendered.append(structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback))
    else:
        rendered += [_exceptions, structlog.processors.JSONRenderer(ensure_ascii=False)]
    _take_library_logs(stream, level, shared, rendered)
    # Our own lines do not go through `logging`: a line for each request cost a fifth of what a request costs.
    structlog.configure(
        processors=[*shared, *rendered],
        logger_factory=partial(_named_lines, stream),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=True,
    )


def _take_library_logs(stream: TextIO, level: str, shared: list[Processor], rendered: list[Processor]) -> None:
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    chain: list[Processor] = [structlog.stdlib.ExtraAdder(), *shared]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=chain, processors=[remove, *rendered]))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    asyncio_logger = logging.getLogger("asyncio")
    if _is_no_noise not in asyncio_logger.filters:
        asyncio_logger.addFilter(_is_no_noise)


class _Lines:
    """What structlog writes to. A log that cannot be written stops no service."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self.name = name
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")  # one call, so that lines of other threads stay whole
            self._stream.flush()
        except (OSError, ValueError):
            return

    debug = info = warning = error = critical = msg


_names = structlog.stdlib.LoggerFactory(ignore_frame_names=[__name__])


def _named_lines(stream: TextIO, *names: str) -> _Lines:
    """A logger without a name has that of the module that logs."""
    return _Lines(_names(*names).name, stream)


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
        add_service,
        add_trace_ids,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.StackInfoRenderer(),
    ]


def _is_no_noise(record: logging.LogRecord) -> bool:
    return _NOISE not in record.getMessage()
