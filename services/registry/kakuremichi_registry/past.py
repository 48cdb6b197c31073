"""What the portal asks about the past: states, differences, and the log itself as exports carry it."""

from typing import Any

from msgspec import structs

from kakuremichi.audit.beginning import begin_of
from kakuremichi.audit.export import Begin
from kakuremichi.audit.fold import FoldError
from kakuremichi.wire.codec import WireError, encode
from kakuremichi.wire.commands import Problem
from kakuremichi.wire.history import (
    AnyHistoryRequest,
    AnyHistoryResult,
    CheckpointView,
    LogBegin,
    LogPage,
    ReadDiff,
    ReadLog,
    ReadState,
)
from kakuremichi_registry.database import Database
from kakuremichi_registry.history import History, Recent
from kakuremichi_registry.refusal import FAILURES, Refusal, failure
from kakuremichi_registry.store import checkpoints, history, retirement, truth
from kakuremichi_registry.store.retirement import Cut
from kakuremichi_registry.trust import Trust
from kakuremichi_registry.views import fitting

ROWS = 200  # looked at for one page
ROWS_BYTES = 30_000  # the largest row there can be, and the checkpoints, have room behind it
MOST_CHECKPOINTS = 4  # in one page, with their witnesses


class Past:
    """Answers `cp.registry.history`."""

    def __init__(self, database: Database, trust: Trust) -> None:
        self._database, self._trust = database, trust
        self.history = History(database)
        self._begins = Recent[int, tuple[Begin, list[str]]](kept=1)

    async def answer(self, _subject: str, request: AnyHistoryRequest) -> AnyHistoryResult:
        try:
            return await self._answer(request)
        except Refusal as refusal:
            return refusal.problem
        except FAILURES as error:
            return failure(error, type(request).__name__)
        except FoldError as error:
            return Problem(status=500, code="unreadable-log", detail=str(error))

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
        cut = await retirement.newest_cut(self._database)
        if cut is not None and request.after < cut.seq:
            return await self._begin(request, log_id, last, cut)
        found = await truth.log_rows(self._database, request.after, last, ROWS)
        rows, more = fitting((row.logged(log_id) for row in found), ROWS_BYTES)
        until = rows[-1].seq if rows else request.after
        kept = await checkpoints.between(self._database, request.after, until, MOST_CHECKPOINTS)
        if len(kept) == MOST_CHECKPOINTS and kept[-1].size < until:
            until, more = kept[-1].size, True
            rows = tuple(row for row in rows if row.seq <= until)
        return self._page(
            log_id, last, rows=rows, next_after=until if more or until < last else 0,
            checkpoints=tuple(
                CheckpointView(size=each.size, signed=encode(each.signed), witnesses=tuple(map(encode, each.witnesses)))
                for each in kept
            ),
        )  # fmt: skip

    async def _begin(self, request: ReadLog, log_id: str, last: int, cut: Cut) -> LogPage:
        """Where the log begins now, and some of the state there; behind the last of it the rows follow."""
        held = self._begins.get(cut.seq)
        if held is None:
            state = await retirement.state_at_cut(self._database, cut)
            if state is None:
                raise Refusal(503, "unavailable", "log: rows are being retired; ask again")
            held = self._begins.put(cut.seq, begin_of(state, cut.roots, cut.export_sha256))
        begin, whole = held
        rows, more = fitting(whole[request.state_after :])
        return self._page(
            log_id, last, begin=LogBegin(**structs.asdict(begin)), state=rows,
            next_state=request.state_after + len(rows) if more else 0, next_after=cut.seq,
        )  # fmt: skip

    def _page(self, log_id: str, last: int, **more: Any) -> LogPage:
        trust = self._trust
        return LogPage(
            log_id=log_id, deployment=trust.deployment, trust=encode(trust.trust_set), last=last,
            feed_key=encode(trust.feed_certificate), **({"rows": (), "checkpoints": ()} | more),
        )  # fmt: skip
