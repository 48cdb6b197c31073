"""The time machine: the state after any row of the log, folded from the nearest place that is known."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

import structlog
from msgspec import UNSET, UnsetType

from kakuremichi.audit.chain import LogRow
from kakuremichi.audit.diff import Change, Touches, changes
from kakuremichi.audit.fold import fold
from kakuremichi.audit.rows import canonical
from kakuremichi.audit.rows import lines as lines_of
from kakuremichi.audit.state import State, digest, later
from kakuremichi.audit.within import within
from kakuremichi.model.limits import Limits
from kakuremichi.runtime.backoff import around
from kakuremichi.wire.history import (
    DiffPage,
    Moment,
    ReadDiff,
    ReadState,
    RowChange,
    StatePage,
    StatePlace,
    Touch,
    Within,
)
from kakuremichi_registry.database import Database, DatabaseUnavailableError
from kakuremichi_registry.refusal import invalid, not_found
from kakuremichi_registry.store import history, retirement, truth
from kakuremichi_registry.store.entries import text_of
from kakuremichi_registry.store.retirement import Cut
from kakuremichi_registry.views import fitting

log = structlog.get_logger(__name__)

SNAPSHOT_EVERY = 20_000  # rows
LOOK_EVERY_S = 60.0
SLICE = 500  # rows that are folded before others have their turn
KEPT = 4  # states, and lists of lines, in memory

T = TypeVar("T")
K = TypeVar("K")


class Recent(Generic[K, T]):
    """The few that were asked for last."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept, self._held = kept, OrderedDict[K, T]()

    def get(self, key: K) -> T | None:
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def put(self, key: K, value: T) -> T:
        self._held[key] = value
        self._held.move_to_end(key)
        if len(self._held) > self._kept:
            self._held.popitem(last=False)
        return value

    def __iter__(self) -> Iterator[K]:
        return iter(tuple(self._held))


@dataclass(frozen=True, slots=True)
class Shown:
    """One state in canonical lines, of which pages are cut."""

    place: StatePlace
    lines: list[str]


class History:
    """Answers `ReadState` and `ReadDiff`; refusals are :class:`Refusal`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = asyncio.Lock()  # one fold at a time: they share what they find, and the processor
        self._states = Recent[int, State]()
        self._shown = Recent[tuple[int, str, Limits], Shown]()
        self._diffs = Recent[tuple[int, str, int, str, Limits], DiffPage]()

    async def state(self, seq: int) -> State:
        """The state after row `seq`. It is shared: whoever goes on from it takes a copy."""
        async with self._turn:
            return await self._state(seq)

    async def _state(self, seq: int) -> State:
        held = self._states.get(seq)
        if held is not None:
            return held
        below = max((known for known in self._states if known < seq), default=0)
        base = await history.nearest(self._database, seq, above=below)
        if base is None:
            known = self._states.get(below) if below else None
            base = known.copy() if known else State(log_id=(await history.head(self._database))[0])
        async for rows in self._log(base.seq, seq):
            fold(base, rows)
        return self._states.put(seq, base)

    async def _log(self, after: int, until: int) -> AsyncIterator[list[LogRow]]:
        while after < until:
            rows = await truth.log_rows(self._database, after, until, SLICE)
            if not rows:
                raise not_found("no-such-row", f"log row {after + 1}: is not in this database any more")
            yield rows
            after = rows[-1].seq

    async def read_state(self, command: ReadState) -> StatePage:
        shown = await self._show(*await self._place(command.moment, "at"), _limits(command.within))
        lines, more = fitting(shown.lines[command.after :])
        return StatePage(place=shown.place, lines=lines, next_after=command.after + len(lines) if more else 0)

    async def read_diff(self, command: ReadDiff) -> DiffPage:
        since, until = await self._place(command.since, "from"), await self._place(command.until, "to")
        limits = _limits(command.within)
        key = (*since, *until, limits)
        whole = self._diffs.get(key) or self._diffs.put(key, await self._diff(since, until, limits))
        rest, more = fitting(whole.changes[command.after :])
        return DiffPage(
            since=whole.since, until=whole.until, count=whole.count, changes=rest,
            next_after=command.after + len(rest) if more else 0,
        )  # fmt: skip

    async def _place(self, moment: Moment, field: str) -> tuple[int, str]:
        """(row, moment): which state it is, and when it is looked at."""
        _, last = await history.head(self._database)
        if moment.seq > last:
            raise invalid(field, f"{field}: log row {moment.seq}: the log has come to {last}")
        cuts = await retirement.cuts(self._database)
        if moment.seq >= 0:
            _refuse_retired(cuts, field, moment.seq, f"log row {moment.seq}")
            return moment.seq, moment.at
        if not moment.at:
            return last, text_of(datetime.now(UTC))
        try:
            at = datetime.fromisoformat(moment.at)
        except ValueError as error:
            raise invalid(field, f"{field}: {moment.at!r} is no RFC 3339 time") from error
        if at.tzinfo is None:
            raise invalid(field, f"{field}: {moment.at} has no zone; write {moment.at}Z for UTC")
        said = text_of(at.astimezone(UTC))
        if cuts and later(cuts[-1].at, said):
            _refuse_retired(cuts, field, next(cut.seq - 1 for cut in cuts if later(cut.at, said)), said)
        return await history.seq_at(self._database, at), said

    async def _show(self, seq: int, moment: str, limits: Limits) -> Shown:
        held = self._shown.get((seq, moment, limits))
        if held is not None:
            return held
        state = await self.state(seq)
        lines = await asyncio.to_thread(lambda: lines_of(within(state.rows(moment), limits)))
        place = StatePlace(
            log_id=state.log_id, seq=seq, hash=state.hash.hex(), at=state.at,
            moment=moment if later(moment, state.at) else state.at,
            digest=digest(lines), count=len(lines),
        )  # fmt: skip
        return self._shown.put((seq, moment, limits), Shown(place, [line.decode() for line in lines]))

    async def _diff(self, since: tuple[int, str], until: tuple[int, str], limits: Limits) -> DiffPage:
        before, after = await self.state(since[0]), await self.state(until[0])
        touches = Touches()
        first, last = sorted((since[0], until[0]))
        async for rows in self._log(first, last):
            touches.add(rows)
        found = await asyncio.to_thread(
            lambda: changes(within(before.rows(since[1]), limits), within(after.rows(until[1]), limits))
        )
        return DiffPage(
            since=(await self._show(*since, limits)).place, until=(await self._show(*until, limits)).place,
            count=len(found),
            changes=tuple(_row_change(change, touches) for change in found),
        )  # fmt: skip

    async def run(self, stop: asyncio.Event, leading: asyncio.Event) -> None:
        """Keep a snapshot every so many rows, while this process leads."""
        while not stop.is_set():
            try:
                async with asyncio.timeout(around(LOOK_EVERY_S)):
                    await stop.wait()
            except TimeoutError:
                if leading.is_set():
                    await self.keep_snapshots()

    async def keep_snapshots(self, every: int = SNAPSHOT_EVERY) -> None:
        try:
            _, last = await history.head(self._database)
            seq = await history.newest(self._database) + every
            while seq <= last:
                await history.keep(self._database, await self.state(seq))
                log.info("state kept", seq=seq)
                seq += every
        except DatabaseUnavailableError as error:
            log.info("state not kept", reason=str(error))


def _refuse_retired(cuts: Sequence[Cut], field: str, seq: int, said: str) -> None:
    """The state after the last row that has left is still there, none before it."""
    if not cuts or seq >= cuts[-1].seq:
        return
    cut = next(cut for cut in cuts if seq < cut.seq)
    raise not_found(
        "retired",
        f"{field}: {said}: the log begins behind row {cuts[-1].seq} of {cuts[-1].at}; rows {cut.first} to {cut.seq}"
        f" left on {cut.cut_at} with the export that has the SHA-256 {cut.export_sha256.hex()}: ask it (--from FILE)",
        field=field,
    )


def _limits(given: Within | UnsetType) -> Limits:
    return Limits() if given is UNSET else Limits(given.pools, given.agents)


def _row_change(change: Change, touches: Touches) -> RowChange:
    row = touches.of(change.row)
    return RowChange(
        before=canonical(change.before).decode() if change.before else "",
        after=canonical(change.after).decode() if change.after else "",
        by=Touch(seq=row.seq, at=row.at, actor=row.actor, topic=row.topic) if row else None,
    )
