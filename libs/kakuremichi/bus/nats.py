"""The bus on NATS. Sending and asking are here; the supervisor keeps the connection below."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Self

import msgspec

from kakuremichi.bus import jetstream, spans
from kakuremichi.bus.answers import settle
from kakuremichi.bus.connection import Connection, Credentials, NatsOptions
from kakuremichi.bus.delivery import Delivery
from kakuremichi.bus.port import Ack, Bus, BusError, BusUnavailableError, Handler, Headers, Message, StreamState
from kakuremichi.bus.subject import check_pattern, check_subject
from kakuremichi.bus.supervisor import Supervisor, call

__all__ = ["Credentials", "NatsBus", "NatsOptions", "NatsSubscription", "Probe"]

Probe = Callable[[Bus], Awaitable[None]]
"""A real request of the role. BusTimeoutError or BusUnavailableError is a miss; any answer, a refusal too, is life."""

_API_TIMEOUT_S = 2.0
_READ_TIMEOUT_S = 10.0  # many are asked for at once


class NatsBus:
    """The supervised client. Enter it to start it; it connects in the background, `wait_connected` waits for that."""

    def __init__(
        self, options: NatsOptions, credentials: Callable[[], Awaitable[Credentials]], *, probe: Probe | None = None
    ) -> None:
        self.counts: Counter[str] = Counter()
        """handled, handler_errors, overflowed, violations, connections, connection_failures,
        credentials_refused, probe_misses"""
        self._options = options
        self._supervisor = Supervisor(options, credentials, partial(probe, self) if probe else None, self.counts)
        self._overflow_callbacks: list[Callable[[str], None]] = []

    async def __aenter__(self) -> Self:
        self._supervisor.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def hold(self, stop: asyncio.Event) -> None:
        """A loop for the service's task group: if the supervision dies, so does the process."""
        await self._supervisor.hold(stop)

    @property
    def generation(self) -> int:
        return self._supervisor.generation

    @property
    def connected(self) -> bool:
        return self._supervisor.standing.is_set()

    async def wait_connected(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._supervisor.standing.wait()
        except TimeoutError:
            raise BusUnavailableError(f"no connection to the bus within {timeout_s:g} s") from None

    def on_connected(self, callback: Callable[[int], None]) -> None:
        self._supervisor.connected_callbacks.append(callback)

    def on_overflow(self, callback: Callable[[str], None]) -> None:
        """Call `callback(subject)` when a subscription's queue is full and messages of it are being dropped."""
        self._overflow_callbacks.append(callback)

    async def publish(self, subject: str, data: bytes, *, headers: Headers | None = None, reply: str = "") -> None:
        connection = self._usable(subject)
        if reply:
            check_subject(reply)
        with spans.sending("publish", subject, len(data), headers) as sent:
            await connection.publish(subject, data, sent, reply)

    async def request(self, subject: str, data: bytes, *, timeout_s: float, headers: Headers | None = None) -> Message:
        connection = self._usable(subject)
        with spans.sending("request", subject, len(data), headers) as sent:
            answer = await _ask(connection, subject, data, timeout_s, sent)
            if jetstream.no_responders(answer):
                raise BusUnavailableError(f"{subject}: nobody listens there")
            return answer

    async def subscribe(
        self, subject: str, handler: Handler, *, queue: str = "", at_once: int = 1
    ) -> "NatsSubscription":
        check_pattern(subject)
        if self._supervisor.closed:
            raise BusUnavailableError(f"{subject}: the bus is closed")
        delivery = Delivery(
            subject, queue, handler, limit=self._options.queue_limit, counts=self.counts,
            on_overflow=self._overflowed, at_once=at_once,
        )  # fmt: skip
        await self._supervisor.add(delivery)
        return NatsSubscription(partial(self._supervisor.remove, delivery))

    async def store(self, subject: str, data: bytes, *, headers: Headers | None = None) -> "asyncio.Future[Ack]":
        connection = self._usable(subject)
        loop = asyncio.get_running_loop()
        span, sent = spans.start_send("store", subject, len(data), headers)
        reply, answer = connection.answers.expect(subject)
        try:
            await connection.publish(subject, data, sent, reply)
        except BusError as error:
            answer.cancel()
            spans.end_send(span, error)
            raise
        ack: asyncio.Future[Ack] = loop.create_future()
        within_s = self._options.store_timeout_s
        timer = loop.call_later(within_s, _fail, answer, subject, within_s)

        def finish(answer: "asyncio.Future[Message]") -> None:
            timer.cancel()
            outcome = _outcome(subject, answer)
            settle(ack, outcome)
            spans.end_send(span, outcome if isinstance(outcome, BusError) else None)

        answer.add_done_callback(finish)
        return ack

    async def stream_state(self, stream: str) -> StreamState:
        answer = await self._api(f"$JS.API.STREAM.INFO.{stream}", b"")
        return jetstream.state_of(jetstream.parse_info(stream, answer))

    async def last_stored(self, stream: str, subject: str) -> Message | None:
        asked = msgspec.json.encode({"last_by_subj": subject})
        return jetstream.parse_stored(stream, await self._api(f"$JS.API.STREAM.MSG.GET.{stream}", asked))

    async def stored(self, stream: str, seq: int) -> Message | None:
        asked = msgspec.json.encode({"seq": seq})
        answer = await self._api(f"$JS.API.STREAM.MSG.GET.{stream}", asked, _READ_TIMEOUT_S)
        return jetstream.parse_stored(stream, answer)

    async def close(self) -> None:
        await self._supervisor.close()

    def _usable(self, subject: str) -> Connection:
        check_subject(subject)
        connection = self._supervisor.connection
        if connection is None or connection.lost.is_set():
            state = "closed" if self._supervisor.closed else "not connected"
            raise BusUnavailableError(f"{subject}: the bus is {state}")
        return connection

    async def _api(self, subject: str, data: bytes, timeout_s: float = _API_TIMEOUT_S) -> Message:
        return await _ask(self._usable(subject), subject, data, timeout_s, {})

    def _overflowed(self, subject: str) -> None:
        for callback in self._overflow_callbacks:
            call(callback, subject)


class NatsSubscription:
    def __init__(self, remove: Callable[[], Awaitable[None]]) -> None:
        self._remove = remove

    async def unsubscribe(self) -> None:
        await self._remove()


async def _ask(connection: Connection, subject: str, data: bytes, timeout_s: float, headers: dict[str, str]) -> Message:
    reply, answer = connection.answers.expect(subject)
    try:
        async with asyncio.timeout(timeout_s):
            await connection.publish(subject, data, headers, reply)
            return await answer
    except TimeoutError:
        raise jetstream.too_late(subject, "answer", timeout_s) from None
    finally:
        answer.cancel()


def _fail(answer: "asyncio.Future[Message]", subject: str, within_s: float) -> None:
    if not answer.done():
        answer.set_exception(jetstream.too_late(subject, "ack", within_s))


def _outcome(subject: str, answer: "asyncio.Future[Message]") -> Ack | BusError:
    if answer.cancelled():
        return jetstream.lost(subject)
    error = answer.exception()
    if error is not None:
        return error if isinstance(error, BusError) else jetstream.lost(subject)
    try:
        return jetstream.parse_ack(subject, answer.result())
    except BusError as refused:
        return refused
