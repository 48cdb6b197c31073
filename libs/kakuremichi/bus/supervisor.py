"""Keeps one connection after another alive, and makes the subscriptions anew on each."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import structlog

from kakuremichi.bus.connection import Connection, Credentials, CredentialsRefusedError, NatsOptions
from kakuremichi.bus.delivery import Delivery
from kakuremichi.bus.port import BusError, BusTimeoutError, BusUnavailableError
from kakuremichi.runtime.backoff import around

log = structlog.get_logger(__name__)


class Supervisor:
    """Owns the connection of the moment, its generation and the list of subscriptions that every one gets.

    `credentials` is asked before each connection. `probe` is a real request of the role, none is PING and PONG:
    BusTimeoutError and BusUnavailableError are misses, any other answer, a refusal too, is life.
    """

    def __init__(
        self,
        options: NatsOptions,
        credentials: Callable[[], Awaitable[Credentials]],
        probe: Callable[[], Awaitable[None]] | None,
        counts: "Counter[str]",
    ) -> None:
        self.connection: Connection | None = None
        self.generation = 0
        self.standing = asyncio.Event()
        self.closed = False
        self.connected_callbacks: list[Callable[[int], None]] = []
        self._options = options
        self._credentials = credentials
        self._probe = probe
        self._counts = counts
        self._deliveries: list[Delivery] = []
        self._servers = random.sample(options.servers, len(options.servers))
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._supervise(), name="bus")

    async def hold(self, stop: asyncio.Event) -> None:
        """Return when `stop` is set; raise what ended the supervision if that comes first."""
        if self._task is None:
            raise BusError("the bus was not started")
        stopping = asyncio.get_running_loop().create_task(stop.wait())
        try:
            await asyncio.wait({self._task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if self._task.done() and not stop.is_set():
            self._task.result()

    async def add(self, delivery: Delivery) -> None:
        """Subscribe now if there is a connection, and on each later one; BusError if the server forbids it."""
        self._deliveries.append(delivery)
        connection = self.connection
        if connection is None or connection.lost.is_set():
            return
        try:
            if not connection.is_attached(delivery):
                await connection.attach(delivery)
            await connection.round_trip(self._options.connect_timeout_s)
        except (BusTimeoutError, BusUnavailableError):
            return  # the next connection brings it
        if connection.is_refused(delivery.subject):
            await self.remove(delivery)
            raise BusError(f"{delivery.subject}: this role may not subscribe there")

    async def remove(self, delivery: Delivery) -> None:
        if delivery in self._deliveries:
            self._deliveries.remove(delivery)
        if self.connection is not None:
            await self.connection.detach(delivery)
        await delivery.stop(self._options.close_timeout_s)

    async def close(self) -> None:
        """Let handlers finish the message in hand, then leave for good."""
        if self.closed:
            return
        self.closed = True
        await asyncio.gather(*(delivery.stop(self._options.close_timeout_s) for delivery in self._deliveries))
        while self._task is not None and not self._task.done():
            self._task.cancel()  # again and again: the client library swallows a cancellation here and there
            await asyncio.wait({self._task}, timeout=1)
        await self._drop()

    async def _supervise(self) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._watch(await self._connect())
            except BusError as error:
                self._counts["connection_failures"] += 1
                self._counts["credentials_refused"] += isinstance(error, CredentialsRefusedError)
                log.warning("no connection to the bus", reason=str(error), failures=failures)
            await self._drop()
            failures = 0 if loop.time() - began >= self._options.stable_s else failures + 1
            await asyncio.sleep(self._options.backoff.delay_s(failures))

    async def _connect(self) -> Connection:
        server = self._servers[0]
        self._servers.append(self._servers.pop(0))  # the next attempt tries the next one
        credentials = await self._fresh_credentials()
        connection = Connection(self._options, self._counts)
        try:
            await connection.open(server, credentials)
        except BaseException:
            await connection.close()
            raise
        self.connection = connection  # handlers may answer from now on
        while missing := [each for each in self._deliveries if not connection.is_attached(each)]:
            for delivery in missing:
                await connection.attach(delivery)
            await connection.round_trip(self._options.connect_timeout_s)
        self._announce(server)
        return connection

    def _announce(self, server: str) -> None:
        self.generation += 1
        self._counts["connections"] += 1
        self.standing.set()
        log.info("connected to the bus", server=server, generation=self.generation)
        for callback in self.connected_callbacks:
            call(callback, self.generation)

    async def _fresh_credentials(self) -> Credentials:
        try:
            return await self._credentials()
        except Exception as error:  # a renewal that fails is one failed attempt, not the end of the supervision
            raise BusUnavailableError(f"credentials: {error}") from error

    async def _watch(self, connection: Connection) -> None:
        """Return when the connection is lost: told by the library, or by requests that nobody answers."""
        misses = 0
        while not await _set_within(around(self._options.probe_interval_s), connection.lost):
            if await self._is_alive(connection):
                misses = 0
                continue
            misses += 1
            self._counts["probe_misses"] += 1
            if misses >= self._options.probe_misses:
                connection.lose(f"{misses} proofs of life failed in a row")
        log.warning("connection to the bus lost", reason=connection.why, generation=self.generation)

    async def _is_alive(self, connection: Connection) -> bool:
        try:
            async with asyncio.timeout(self._options.probe_timeout_s):
                if self._probe is None:
                    await connection.round_trip(self._options.probe_timeout_s)
                else:
                    await self._probe()
        except (TimeoutError, BusTimeoutError, BusUnavailableError):
            return False
        except BusError:
            return True
        except Exception:
            log.exception("the proof of life itself failed")
            return False
        return True

    async def _drop(self) -> None:
        self.standing.clear()
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.close()


def call(callback: Callable[..., None], argument: object) -> None:
    """Call somebody else's callback; its errors are its own."""
    try:
        callback(argument)
    except Exception:
        log.exception("bus callback failed")


async def _set_within(seconds: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return event.is_set()
