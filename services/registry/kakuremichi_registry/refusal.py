"""How a pure decision says no: one exception that carries the answer to be sent. And what is said when the database
could not do what was decided.
"""

import asyncpg
import structlog
from msgspec import UNSET

from kakuremichi.wire.commands import Problem
from kakuremichi_registry.database import DatabaseUnavailableError, StaleError

log = structlog.get_logger(__name__)

FAILURES = (DatabaseUnavailableError, StaleError, asyncpg.PostgresError)


class Refusal(Exception):  # noqa: N818  # an answer, not an error of the program
    """What was asked for is refused; `problem` is the answer."""

    def __init__(
        self, status: int, code: str, detail: str, *, field: str = "", holders: tuple[str, ...] = (),
        current_seq: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(detail)
        self.problem = Problem(
            status=status, code=code, detail=detail, field=field, holders=holders,
            current_seq=UNSET if current_seq is None else current_seq,
        )  # fmt: skip


def invalid(field: str, detail: str) -> Refusal:
    """422: the value of `field` can never be right."""
    return Refusal(422, "invalid-field", detail, field=field)


def not_found(code: str, detail: str, *, field: str = "") -> Refusal:
    return Refusal(404, code, detail, field=field)


def conflict(code: str, detail: str, *, field: str = "", holders: tuple[str, ...] = ()) -> Refusal:
    """409: somebody else has it, or something stands in the way; `holders` names who."""
    return Refusal(409, code, detail, field=field, holders=holders)


def exhausted(detail: str) -> Refusal:
    return Refusal(507, "exhausted", detail)


def failure(error: Exception, asked: str) -> Problem:
    """The answer to `asked`, the name of a request, after one of FAILURES. The asker is told, not left to wait; what
    was written stands or falls as a whole.
    """
    match error:
        case DatabaseUnavailableError():
            return Problem(status=503, code="unavailable", detail=str(error))
        case StaleError():
            log.warning("write given up", asked=asked, reason=str(error))
            detail = "write: others were faster each time it was tried; try again"
            return Problem(status=503, code="busy", detail=detail)
    log.error("statement refused", asked=asked, exc_info=error)
    return Problem(status=500, code="internal", detail=f"database: {type(error).__name__}; see the log")
