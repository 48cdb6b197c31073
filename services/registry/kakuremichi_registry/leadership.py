"""One connection of our own to PostgreSQL: it hears of new rows at once, and its session may hold the relay's lock."""

import asyncio

import asyncpg
import structlog

from kakuremichi.runtime.backoff import Backoff
from kakuremichi.runtime.errors import reason_of
from kakuremichi.runtime.waiting import first_of
from kakuremichi_registry.database import BUSY, LOST, Database, DatabaseUnavailableError

log = structlog.get_logger(__name__)

CHANNEL = "kk_log"
LOCK = 0x6B6B726C  # pg_try_advisory_lock: one relay is active
TRY_LOCK_S = 1.0
PROBE_S = 15.0  # the loss of a connection that only listens is noticed by nothing else
BACKOFF = Backoff(base_s=0.1, cap_s=2.0)


class Leadership:
    """`leading` is set while this process may relay; `woken()` gives events that are set when rows were written."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wakes: list[asyncio.Event] = []
        self._heard = 0
        self.leading = asyncio.Event()

    def woken(self) -> asyncio.Event:
        wake = asyncio.Event()
        self._wakes.append(wake)
        return wake

    async def run(self, stop: asyncio.Event) -> None:
        failures = 0
        while not stop.is_set():
            try:
                async with self._database.own_connection() as connection:
                    failures = 0
                    await self._hold(connection, stop)
            except (DatabaseUnavailableError, asyncpg.PostgresError, *LOST, *BUSY) as error:
                log.warning("listening interrupted", reason=reason_of(error))
                await first_of(stop, timeout_s=BACKOFF.delay_s(failures))
                failures += 1
            finally:
                self._leave()

    async def _hold(self, connection: "asyncpg.Connection[asyncpg.Record]", stop: asyncio.Event) -> None:
        lost = asyncio.Event()
        connection.add_termination_listener(lambda *_: lost.set())
        await connection.add_listener(CHANNEL, self._notified)
        self._wake_all()  # what was written while nobody listened
        loop = asyncio.get_running_loop()
        probe_at = loop.time() + PROBE_S
        while not stop.is_set() and not lost.is_set():
            if not self.leading.is_set() and await connection.fetchval("select pg_try_advisory_lock($1)", LOCK):
                log.info("relay leads")
                self.leading.set()
                self._wake_all()
            elif loop.time() >= probe_at:
                await connection.fetchval("select 1")
                probe_at = loop.time() + PROBE_S
            await first_of(stop, lost, timeout_s=TRY_LOCK_S)

    def _notified(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self.wrote(int(str(payload)))

    def wrote(self, seq: int) -> None:
        """The log has this row. Who wrote it in this process says so itself: the notification goes a longer way."""
        if seq > self._heard:  # rows are committed in the order of their numbers
            self._heard = seq
            self._wake_all()

    def _wake_all(self) -> None:
        for wake in self._wakes:
            wake.set()

    def _leave(self) -> None:
        self.leading.clear()
        self._wake_all()
