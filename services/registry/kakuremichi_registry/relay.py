"""From the log to JetStream: in order, many ahead of the acks, and live even while no stream has a leader.

Live subscribers read what is sent, not what is stored; so a failed ack stops the window but not the sending:
1. *streaming*: each row is sent with the stream sequence that it must get. An ack that fails, or that names
   another sequence, ends this state: storing goes on from a known place, never from a guess.
2. *seeking*: STREAM.INFO is asked until a leader answers. New rows meanwhile go out with a sequence that no
   stream can accept, so they reach subscribers and are stored later, in their place.
3. The newest stored message names the row that it came from; streaming goes on after it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from opentelemetry import trace

from kakuremichi.bus.jetstream import EXPECTED_LAST_SEQUENCE, MESSAGE_ID
from kakuremichi.bus.port import Ack, Bus, BusError, StreamState
from kakuremichi.runtime.backoff import Backoff
from kakuremichi.runtime.sampling import may_be_recorded
from kakuremichi.runtime.trace_context import TRACEPARENT, extract, inject
from kakuremichi_registry.database import Database, DatabaseUnavailableError
from kakuremichi_registry.leadership import Leadership
from kakuremichi_registry.relay_sources import Row, Source

log = structlog.get_logger(__name__)

WINDOW = 256
POLL_S = 1.0  # behind the notification, which may be lost with its connection
CHECK_STREAM_S = 60.0
SAVE_EVERY_S = 5.0
NO_SUCH_SEQUENCE = str(2**62)
BACKOFF = Backoff(base_s=0.2, cap_s=2.0)

_tracer = trace.get_tracer("kakuremichi.registry")


class GoBackError(Exception):
    """Storing cannot go on from where we thought we were; a sentence."""


class Relay:
    """One loop for one stream. `stored` and `live` are positions in the log."""

    def __init__(
        self, bus: Bus, database: Database, source: Source, leadership: Leadership, *, gather_s: float = 0.0
    ) -> None:
        self._bus, self._database, self._source = bus, database, source
        self._leading, self._wake = leadership.leading, leadership.woken()
        bus.on_connected(lambda _generation: self._wake.set())
        self._gather_s = gather_s  # how long to gather rows once woken, where nobody waits for them
        self.stored = 0  # everything up to here is in the stream
        self.live = 0  # everything up to here was sent to whoever listens
        self.sent = 0  # sent to be stored
        self.seeks = 0
        self._stream_seq = 0
        self._created = ""
        self._saved = -1
        self._saved_at = 0.0
        self._pending: deque[tuple[Row, asyncio.Future[Ack]]] = deque()

    async def run(self, stop: asyncio.Event) -> None:
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                await self._wait(stopped, POLL_S, until=self._leading.is_set)
                if self._leading.is_set() and not stop.is_set():
                    await self._lead(stopped)
        finally:
            stopped.cancel()
            self._abandon()

    async def _lead(self, stopped: "asyncio.Task[bool]") -> None:
        """Relay until this process no longer leads or is told to stop."""
        failures = 0
        known = False
        while self._leading.is_set() and not stopped.done():
            try:
                if not known:
                    self.live = self.stored = await self._saved_position()
                    known = True
                if await self._seek(stopped):
                    failures = 0
                    await self._stream(stopped)
            except (BusError, GoBackError, DatabaseUnavailableError) as error:
                self._abandon()
                self.seeks += 1
                log.info("relay goes back", stream=self._source.stream, reason=str(error), stored=self.stored)
                await self._wait(stopped, BACKOFF.delay_s(failures), until=lambda: False)
                failures += 1

    async def _stream(self, stopped: "asyncio.Task[bool]") -> None:
        look_at = 0.0  # rows are looked for when woken, after a full batch, and every second; not for every ack
        check_at = self._now() + CHECK_STREAM_S
        while self._leading.is_set() and not stopped.done():
            self._reap()
            room = WINDOW - len(self._pending)
            if room and (self._wake.is_set() or self._now() >= look_at):
                await asyncio.sleep(self._gather_s)
                self._wake.clear()
                rows = await self._source.rows(self.sent, room)
                for row in rows:
                    await self._store(row)
                look_at = 0.0 if len(rows) == room else self._now() + POLL_S
                continue
            await self._save()
            if self._now() >= check_at and not self._pending:
                await self._check_stream()
                check_at = self._now() + CHECK_STREAM_S
            await self._wait_ack_or_row(stopped, full=not room)
        await self._finish()

    async def _store(self, row: Row) -> None:
        headers = {MESSAGE_ID: row.message_id, EXPECTED_LAST_SEQUENCE: str(self._stream_seq)}
        with _publishing(row, headers):
            future = await self._bus.store(row.subject, row.data, headers=headers)
        self._pending.append((row, future))
        self._stream_seq += 1
        self.sent = row.position
        self.live = max(self.live, row.position)

    def _reap(self) -> None:
        """Take the acks that are there, in order. Any that is not as foreseen ends the streaming."""
        while self._pending and self._pending[0][1].done():
            row, future = self._pending.popleft()
            ack = future.result()
            foreseen = self._stream_seq - len(self._pending)
            if ack.seq != foreseen:
                raise GoBackError(f"{row.message_id}: is stored at {ack.seq}, {foreseen} was foreseen")
            self.stored = row.position

    def _abandon(self) -> None:
        """What is under way may still be stored or not; the stream will tell."""
        for _, future in self._pending:
            future.add_done_callback(_ignore)
        self._pending.clear()

    async def _seek(self, stopped: "asyncio.Task[bool]") -> bool:
        """Find the place in the stream, sending new rows live meanwhile. False if there was none to be found."""
        failures = 0
        while self._leading.is_set() and not stopped.done():
            self._wake.clear()
            try:
                state = await self._bus.stream_state(self._source.stream)
                self.stored = self.sent = await self._place(state)
            except BusError as error:
                if failures == 0:
                    log.warning("stream does not answer", stream=self._source.stream, reason=str(error))
                await self._send_live()
                await self._wait(stopped, BACKOFF.delay_s(failures) + 0.05, until=self._wake.is_set)
                failures += 1
                continue
            self._stream_seq, self._created = state.last_seq, state.created
            return True
        return False

    async def _place(self, state: StreamState) -> int:
        """The position of the newest row that is in the stream."""
        if state.last_seq == 0:
            return 0  # new, or made anew: everything that is still kept is said again, which harms nobody
        newest = await self._bus.last_stored(self._source.stream, self._source.pattern)
        if newest is not None:
            position = await self._source.position_of(newest.headers.get(MESSAGE_ID, ""))
            if position is not None:
                return position
        return await self._saved_position()

    async def _send_live(self) -> None:
        """Rows that nobody has heard of yet, to whoever listens; no stream can take them with this sequence."""
        rows = await self._source.rows(self.live, WINDOW)
        for row in rows:
            headers = {EXPECTED_LAST_SEQUENCE: NO_SUCH_SEQUENCE}
            with _publishing(row, headers):
                await self._bus.publish(row.subject, row.data, headers=headers)
            self.live = row.position

    async def _check_stream(self) -> None:
        state = await self._bus.stream_state(self._source.stream)
        if state.created != self._created or state.last_seq != self._stream_seq:
            raise GoBackError(f"stream {self._source.stream}: is not the one that was written to")

    async def _finish(self) -> None:
        """Told to stop, or no longer leading: wait for what is under way, keep the place."""
        if self._pending:
            await asyncio.wait([future for _, future in self._pending], timeout=POLL_S)
        self._reap()
        self._saved_at = 0.0
        await self._save()

    async def _save(self) -> None:
        """Keep the place: only a hint for the next start, so it need not be written for every row."""
        if self.stored != self._saved and self._now() - self._saved_at >= SAVE_EVERY_S:
            await self._database.execute(
                "insert into relay_cursor (relay, position) values ($1, $2) on conflict (relay)"
                " do update set position = excluded.position, at = clock_timestamp()",
                self._source.stream, self.stored,
            )  # fmt: skip
            self._saved, self._saved_at = self.stored, self._now()

    async def _saved_position(self) -> int:
        row = await self._database.fetch_one("select position from relay_cursor where relay = $1", self._source.stream)
        return 0 if row is None else row["position"]

    async def _wait_ack_or_row(self, stopped: "asyncio.Task[bool]", *, full: bool) -> None:
        if self._wake.is_set() and not full:
            return
        waiting: set[asyncio.Future[object]] = {stopped}  # type: ignore[arg-type]
        if self._pending:
            waiting.add(self._pending[0][1])  # type: ignore[arg-type]
        woken = asyncio.ensure_future(self._wake.wait())
        if not full:
            waiting.add(woken)  # type: ignore[arg-type]
        try:
            await asyncio.wait(waiting, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()

    async def _wait(self, stopped: "asyncio.Task[bool]", timeout_s: float, *, until: Callable[[], bool]) -> None:
        """Until woken with `until()` true, told to stop, or `timeout_s` seconds have passed."""
        woken = asyncio.ensure_future(self._wake.wait())
        try:
            if not until():
                await asyncio.wait({woken, stopped}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


@contextmanager
def _publishing(row: Row, headers: dict[str, str]) -> Iterator[None]:
    """The span of one row on its way, child of the write that made it; its context goes into `headers`."""
    if not row.traceparent:
        yield
        return
    write = extract({TRACEPARENT: row.traceparent})
    if not may_be_recorded(write):
        headers[TRACEPARENT] = row.traceparent
        yield
        return
    with _tracer.start_as_current_span("relay publish", context=write, kind=trace.SpanKind.INTERNAL):
        inject(headers)
        yield


def _ignore(future: "asyncio.Future[Ack]") -> None:
    if not future.cancelled():
        future.exception()
