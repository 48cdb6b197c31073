"""Connections to PostgreSQL: a pool with limits everywhere, few writers at once, one retry where it is safe."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
from opentelemetry import trace

from kakuremichi.runtime.errors import reason_of
from kakuremichi.runtime.sampling import may_be_recorded

MAX_WRITERS = 4  # the head of the log is locked until commit: more writers only lengthen the queue
ACQUIRE_TIMEOUT_S = 2.0
COMMAND_TIMEOUT_S = 5.0
SETTINGS = {
    "application_name": "kakuremichi-registry",
    "lock_timeout": "2000",
    "statement_timeout": "5000",
    "idle_in_transaction_session_timeout": "5000",
    "timezone": "UTC",
    "jit": "off",  # our statements are short; compiling them is not
    # All of them look rows up by key: planning each call anew costs more than running it (a publish: 1.1 → 0.5 ms).
    "plan_cache_mode": "force_generic_plan",
}

# The connection was gone before the statement ran, or went while it did.
LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a server killed in the middle of an operation; the connection is good for nothing
    ConnectionError,
    OSError,
    EOFError,
)
# The server cannot answer now: starting, stopping, too busy, frozen.
BUSY = (
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.DeadlockDetectedError,
    TimeoutError,
)
STALE = "KK001"
TOKEN_NOT_OPEN = "KK002"

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

_tracer = trace.get_tracer("kakuremichi.registry")


class DatabaseUnavailableError(Exception):
    """PostgreSQL does not answer now. Whether a write took place is unknown unless it had an idempotency key."""


class StaleError(Exception):
    """What the decision looked at has changed meanwhile: decide again."""


class TokenNotOpenError(Exception):
    """The join token was redeemed or expired between the decision and the write."""


class Database:
    """One pool. `fetch` reads and may be repeated; `write` is one function call and is never repeated blindly."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", dsn: str) -> None:
        self._pool, self.dsn = pool, dsn
        self._writers = asyncio.Semaphore(MAX_WRITERS)
        self._idle: list[Connection] = []
        self._asking = 0  # how many wait for the pool: then connections go back to it

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        try:
            return await self._fetch(query, args)
        except LOST:
            # After a restart of the server the first statement on an old connection fails, the next does not.
            return await self._fetch_last(query, args)

    async def fetch_one(self, query: str, *args: object) -> asyncpg.Record | None:
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None

    async def _fetch_last(self, query: str, args: tuple[object, ...]) -> list[asyncpg.Record]:
        try:
            return await self._fetch(query, args)
        except LOST as error:
            raise _unavailable(error) from error

    async def _fetch(self, query: str, args: tuple[object, ...]) -> list[asyncpg.Record]:
        try:
            async with self._connection() as connection:
                rows: list[asyncpg.Record] = await connection.fetch(query, *args)
                return rows
        except BUSY as error:
            raise _unavailable(error) from error

    async def write(self, query: str, *args: object) -> asyncpg.Record:
        """Call one function that writes; its transaction is the statement.

        :class:`StaleError` if it, or a constraint that has the last word, says that the decision no longer holds.
        """
        if not may_be_recorded():
            async with self._writers:
                return await self._write(query, args)
        with _tracer.start_as_current_span("registry transaction", attributes={"db.system.name": "postgresql"}):
            async with self._writers:
                return await self._write(query, args)

    async def _write(self, query: str, args: tuple[object, ...]) -> asyncpg.Record:
        try:
            async with self._connection() as connection:
                row: asyncpg.Record | None = await connection.fetchrow(query, *args)
        except (
            asyncpg.UniqueViolationError,
            asyncpg.ExclusionViolationError,
            asyncpg.ForeignKeyViolationError,
        ) as error:
            raise StaleError(str(error)) from error
        except BUSY as error:
            raise _unavailable(error) from error
        except asyncpg.PostgresError as error:
            raise _meaning(error) from error
        except LOST as error:
            raise _unavailable(error) from error
        if row is None:
            raise DatabaseUnavailableError("database: the statement answered no row")
        return row

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """One of ours. The pool opens and mends connections, but handing one out and taking it back costs a timer and a
        task, more than half of what a short statement costs; so we keep those that are well.
        """
        connection = await self._take()
        try:
            yield connection
        except BaseException:
            await self._pool.release(connection)  # which looks at its state
            raise
        if self._asking:
            await self._pool.release(connection)
        else:
            self._idle.append(connection)

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if _is_open(connection):
                return connection
            await self._pool.release(connection)
        self._asking += 1
        try:
            # The pool's own `timeout` costs a task for each statement; this costs a timer.
            async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
                return await self._pool.acquire()
        finally:
            self._asking -= 1

    async def close(self) -> None:
        """Give back what nobody uses; the pool closes when it has everything."""
        while self._idle:
            await self._pool.release(self._idle.pop())
        await self._pool.close()

    async def execute(self, query: str, *args: object) -> None:
        """Bookkeeping that may be repeated and touches no fact."""
        await self.fetch(query, *args)

    @asynccontextmanager
    async def own_connection(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """A connection outside the pool, for LISTEN and advisory locks, which belong to a session."""
        try:
            connection = await asyncpg.connect(
                self.dsn, timeout=ACQUIRE_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S, server_settings=SETTINGS
            )
        except (*LOST, *BUSY) as error:
            raise _unavailable(error) from error
        try:
            yield connection
        finally:
            connection.terminate()


def _is_open(connection: Connection) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:
        return False  # the pool took it back when the server ended it


def _meaning(error: asyncpg.PostgresError) -> Exception:
    if error.sqlstate == STALE:
        return StaleError(str(error))
    if error.sqlstate == TOKEN_NOT_OPEN:
        return TokenNotOpenError(str(error))
    return error if not isinstance(error, LOST) else _unavailable(error)


def _unavailable(error: BaseException) -> DatabaseUnavailableError:
    return DatabaseUnavailableError(f"database: {reason_of(error)}")


async def _leave_as_it_is(_connection: object) -> None:
    """Our statements change nothing of a session, so there is nothing to reset: one round trip less for each."""


@asynccontextmanager
async def open_database(dsn: str) -> AsyncIterator[Database]:
    """The pool, open while the block runs. :class:`DatabaseUnavailableError` if the server does not answer."""
    settings: dict[str, Any] = {
        "min_size": 2, "max_size": 10, "command_timeout": COMMAND_TIMEOUT_S, "timeout": ACQUIRE_TIMEOUT_S,
        "max_inactive_connection_lifetime": 0, "server_settings": SETTINGS, "reset": _leave_as_it_is,
    }  # fmt: skip
    try:
        pool = await asyncpg.create_pool(dsn, **settings)
    except (*LOST, *BUSY) as error:
        raise _unavailable(error) from error
    database = Database(pool, dsn)
    try:
        yield database
    finally:
        try:
            await asyncio.wait_for(database.close(), 5)
        except TimeoutError:
            pool.terminate()
