"""What the portal asks about the past: states, differences, and the log itself as exports carry it."""

import asyncpg
import structlog

from kakuremichi.wire.codec import WireError, encode
from kakuremichi.wire.commands import Problem
from kakuremichi.wire.history import (
    AnyHistoryRequest,
    AnyHistoryResult,
    CheckpointView,
    LogPage,
    ReadDiff,
    ReadLog,
    ReadState,
)
from kakuremichi_registry.database import Database, DatabaseUnavailableError
from kakuremichi_registry.history import History
from kakuremichi_registry.refusal import Refusal
from kakuremichi_registry.store import checkpoints, history, truth
from kakuremichi_registry.trust import Trust
from kakuremichi_registry.views import fitting

log = structlog.get_logger(__name__)

ROWS = 200  # looked at for one page
ROWS_BYTES = 30_000  # the largest row there can be, and the checkpoints, have room behind it
MOST_CHECKPOINTS = 4  # in one page, with their witnesses


class Past:
    """Answers `cp.registry.history`."""

    def __init__(self, database: Database, trust: Trust) -> None:
        self._database, self._trust = database, trust
        self.history = History(database)

    async def answer(self, _subject: str, request: AnyHistoryRequest) -> AnyHistoryResult:
        try:
            return await self._answer(request)
        except Refusal as refusal:
            return refusal.problem
        except DatabaseUnavailableError as error:
            return Problem(status=503, code="unavailable", detail=str(error))
        except asyncpg.PostgresError as error:
            log.exception("statement refused", request=type(request).__name__)
            return Problem(status=500, code="internal", detail=f"database: {type(error).__name__}; see the log")

    @staticmethod
    def refuse(error: WireError) -> Problem:
        return Problem(status=400, code="malformed", detail=str(error))

    async def _answer(self, request: AnyHistoryRequest) -> AnyHistoryResult:
        match request:
            case ReadState():
                return await self.history.read_state(request)
            case ReadDiff():
                return await self.history.read_diff(request)
            case ReadLog():
                return await self._log(request)

    async def _log(self, request: ReadLog) -> LogPage:
        log_id, last = await history.head(self._database)
        found = await truth.log_rows(self._database, request.after, last, ROWS)
        rows, more = fitting((row.logged(log_id) for row in found), ROWS_BYTES)
        until = rows[-1].seq if rows else request.after
        kept = await checkpoints.between(self._database, request.after, until, MOST_CHECKPOINTS)
        if len(kept) == MOST_CHECKPOINTS and kept[-1].size < until:
            until, more = kept[-1].size, True
            rows = tuple(row for row in rows if row.seq <= until)
        return LogPage(
            log_id=log_id, deployment=self._trust.deployment, trust=encode(self._trust.trust_set),
            feed_key=encode(self._trust.feed_certificate), rows=rows,
            checkpoints=tuple(
                CheckpointView(size=each.size, signed=encode(each.signed), witnesses=tuple(map(encode, each.witnesses)))
                for each in kept
            ),
            last=last, next_after=until if more or until < last else 0,
        )  # fmt: skip
