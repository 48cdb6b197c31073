"""Keeps what a client sent out of the log when it is not HTTP: the line that does not parse may hold its token."""

import logging

from aiohttp.http_exceptions import HttpProcessingError

_logger = logging.getLogger("aiohttp.server")


def hide_unparsed_bytes() -> None:
    """aiohttp logs its parser's errors with the offending bytes and a traceback; leave one plain line of them."""
    if _without_bytes not in _logger.filters:
        _logger.addFilter(_without_bytes)


def _without_bytes(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.msg, record.args = "request refused: not HTTP", ()
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True
