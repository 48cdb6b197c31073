"""The bus in memory: it delivers like NATS, keeps what was sent, and fails on demand.

`MemoryNats` is the server of a test, `MemoryBus` one connection to it. Accounts and permissions are not modelled:
those are proved on the real server.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from kakuremichi.bus import jetstream, spans
from kakuremichi.bus.answers import Answers, settle
from kakuremichi.bus.delivery import Delivery
from kakuremichi.bus.memory_stream import MemoryStream
from kakuremichi.bus.port import (
    Ack,
    BusError,
    BusUnavailableError,
    Handler,
    Headers,
    Message,
    StreamState,
    header_bytes,
)
from kakuremichi.bus.subject import check_pattern, check_subject, matches
from kakuremichi.bus.topology import MAX_PAYLOAD_BYTES, STREAMS, StreamSpec

_STOP_S = 2.0


@dataclass(slots=True)
class _Fault:
    pattern: str
    copies: int  # how often each message is delivered: 0 drops it, 2 repeats it
    left: int


class MemoryNats:
    """What all connections of a test share. `sent` holds every message in the order in which it was sent."""

    def __init__(self, streams: Iterable[StreamSpec] = STREAMS, *, seed: int = 0) -> None:
        self.sent: list[Message] = []
        self.streams = {spec.name: MemoryStream(spec) for spec in streams}
        self._buses: list[MemoryBus] = []
        self._faults: list[_Fault] = []
        self._held: dict[str, list[Message]] = {}
        self._lost_acks = 0
        self._random = random.Random(seed)

    def connect(self, name: str = "test", *, queue_limit: int = 4096, store_timeout_s: float = 2.0) -> "MemoryBus":
        """A new connection; its inboxes begin with `_INBOX.<name>` unless `name` begins with `reply.`."""
        prefix = name if name.startswith("reply.") else f"_INBOX.{name}"
        bus = MemoryBus(self, prefix, queue_limit=queue_limit, store_timeout_s=store_timeout_s)
        self._buses.append(bus)
        return bus

    def sent_to(self, pattern: str) -> list[Message]:
        return [message for message in self.sent if matches(pattern, message.subject)]

    def drop_next(self, pattern: str, count: int = 1) -> None:
        """Lose the next messages to subscribers; streams still store them."""
        self._faults.append(_Fault(pattern, 0, count))

    def repeat_next(self, pattern: str, count: int = 1) -> None:
        """Deliver the next messages twice."""
        self._faults.append(_Fault(pattern, 2, count))

    def hold(self, pattern: str) -> None:
        """Keep messages back until `release`."""
        self._held.setdefault(pattern, [])

    def release(
        self, pattern: str, order: Callable[[list[Message]], Iterable[Message]] = lambda messages: messages
    ) -> None:
        """Deliver what was held, in the order that `order` makes of it: `reversed`, a shuffle, a part."""
        for message in order(self._held.pop(pattern, [])):
            self._deliver(message)

    def lose_acks(self, count: int) -> None:
        """Store the next messages without telling the sender."""
        self._lost_acks += count

    def recreate(self, stream: str) -> None:
        """What a restore from nothing looks like: the stream is empty and counts from 1 again."""
        self.streams[stream] = MemoryStream(self.streams[stream].spec)

    async def idle(self) -> None:
        """Return once no handler runs and no message waits, whatever the handlers have sent on the way."""
        quiet = 0
        while quiet < 3:  # a future that a handler waits for takes a turn of the loop to wake it
            await asyncio.sleep(0)
            quiet = quiet + 1 if all(bus.idle for bus in self._buses) else 0

    def send(self, message: Message) -> bool:
        """Route one message; False if nobody listened."""
        self.sent.append(message)
        heard = any(bus.listens(message.subject) for bus in self._buses)
        for pattern, held in self._held.items():
            if matches(pattern, message.subject):
                held.append(message)
                return heard
        for _ in range(self._copies(message.subject)):
            self._deliver(message)
        return heard

    def capture(self, message: Message) -> None:
        """A stream takes what is merely published on its subjects too; what it refuses nobody hears of."""
        with suppress(BusError):
            self.store(message)

    def store(self, message: Message) -> Ack | None:
        """Store one message; None where no ack comes back. BusError as JetStream's."""
        stream = next((each for each in self.streams.values() if each.takes(message.subject)), None)
        if stream is None:
            raise BusError(f"{message.subject}: no stream stores this subject")
        if stream.leaderless:
            return None
        ack = stream.add(message)
        if self._lost_acks:
            self._lost_acks -= 1
            return None
        return None if stream.spec.no_ack else ack

    def stream(self, name: str) -> MemoryStream:
        if name not in self.streams:
            sentence = f"stream {name}: stream not found (JetStream error {jetstream.NO_STREAM})"
            raise jetstream.StreamRefusedError(sentence, jetstream.NO_STREAM)
        return self.streams[name]

    def _copies(self, subject: str) -> int:
        for fault in self._faults:
            if fault.left and matches(fault.pattern, subject):
                fault.left -= 1
                return fault.copies
        return 1

    def _deliver(self, message: Message) -> None:
        groups: dict[str, list[Delivery]] = {}
        for bus in self._buses:
            bus.take_answer(message)
            for delivery in bus.deliveries_of(message.subject):
                groups.setdefault(delivery.queue, []).append(delivery)
        for delivery in groups.pop("", []):
            delivery.offer(message)
        for members in groups.values():
            self._random.choice(members).offer(message)


class MemoryBus:
    """One connection. It is up at once; `disconnect` and `reconnect` are the test's to call."""

    def __init__(self, nats: MemoryNats, inbox_prefix: str, *, queue_limit: int, store_timeout_s: float) -> None:
        self.counts: Counter[str] = Counter()
        self._nats = nats
        self._answers = Answers(inbox_prefix)
        self._queue_limit = queue_limit
        self._store_timeout_s = store_timeout_s
        self._generation = 1
        self._up = asyncio.Event()
        self._up.set()
        self._deliveries: list[Delivery] = []
        self._connected_callbacks: list[Callable[[int], None]] = []
        self._overflow_callbacks: list[Callable[[str], None]] = []

    def disconnect(self) -> None:
        """Lose the connection: whoever waits for an answer is told at once that the outcome is unknown."""
        self._up.clear()
        self._answers.fail_all(jetstream.lost)

    def reconnect(self) -> None:
        """A new connection with the same subscriptions; what was sent meanwhile is lost."""
        self._generation += 1
        self._up.set()
        for callback in self._connected_callbacks:
            callback(self._generation)

    @property
    def generation(self) -> int:
        return self._generation

    @property
    def idle(self) -> bool:
        return all(delivery.idle for delivery in self._deliveries)

    async def wait_connected(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError:
            raise BusUnavailableError(f"no connection to the bus within {timeout_s:g} s") from None

    def on_connected(self, callback: Callable[[int], None]) -> None:
        self._connected_callbacks.append(callback)

    def on_overflow(self, callback: Callable[[str], None]) -> None:
        self._overflow_callbacks.append(callback)

    async def publish(self, subject: str, data: bytes, *, headers: Headers | None = None, reply: str = "") -> None:
        self._check(subject, data, headers)
        if reply:
            check_subject(reply)
        with spans.sending("publish", subject, len(data), headers) as sent:
            message = Message(subject, data, reply, sent)
        self._nats.send(message)
        self._nats.capture(message)

    async def request(self, subject: str, data: bytes, *, timeout_s: float, headers: Headers | None = None) -> Message:
        self._check(subject, data, headers)
        reply, answer = self._answers.expect(subject)
        with spans.sending("request", subject, len(data), headers) as sent:
            message = Message(subject, data, reply, sent)
            self._nats.capture(message)
            try:
                if not self._nats.send(message):
                    raise BusUnavailableError(f"{subject}: nobody listens there")
                async with asyncio.timeout(timeout_s):
                    return await answer
            except TimeoutError:
                raise jetstream.too_late(subject, "answer", timeout_s) from None
            finally:
                answer.cancel()

    async def subscribe(
        self, subject: str, handler: Handler, *, queue: str = "", at_once: int = 1
    ) -> "MemorySubscription":
        check_pattern(subject)
        delivery = Delivery(
            subject, queue, handler, limit=self._queue_limit, counts=self.counts,
            on_overflow=self._overflowed, at_once=at_once,
        )  # fmt: skip
        self._deliveries.append(delivery)
        return MemorySubscription(self._deliveries, delivery)

    async def store(self, subject: str, data: bytes, *, headers: Headers | None = None) -> "asyncio.Future[Ack]":
        self._check(subject, data, headers)
        loop = asyncio.get_running_loop()
        reply, answer = self._answers.expect(subject)
        future: asyncio.Future[Ack] = loop.create_future()
        with spans.sending("store", subject, len(data), headers) as sent:
            message = Message(subject, data, reply, sent)
        self._nats.send(message)  # live first: JetStream delivers also what it then refuses to store
        try:
            ack = self._nats.store(message)
        except BusError as error:
            loop.call_soon(settle, future, error)
            return future
        if ack is not None:
            loop.call_soon(settle, future, ack)
            return future
        within_s = self._store_timeout_s
        timer = loop.call_later(within_s, settle, future, jetstream.too_late(subject, "ack", within_s))
        answer.add_done_callback(lambda _: settle(future, jetstream.lost(subject)))  # disconnected before the ack
        future.add_done_callback(lambda _: timer.cancel())
        future.add_done_callback(lambda _: answer.cancel())
        return future

    async def stream_state(self, stream: str) -> StreamState:
        self._check(f"$JS.API.STREAM.INFO.{stream}", b"")
        return self._nats.stream(stream).state()

    async def last_stored(self, stream: str, subject: str) -> Message | None:
        self._check(f"$JS.API.STREAM.MSG.GET.{stream}", b"")
        return self._nats.stream(stream).last(subject)

    async def stored(self, stream: str, seq: int) -> Message | None:
        self._check(f"$JS.API.STREAM.MSG.GET.{stream}", b"")
        return self._nats.stream(stream).get(seq)

    async def close(self) -> None:
        self.disconnect()
        await asyncio.gather(*(delivery.stop(_STOP_S) for delivery in self._deliveries))

    def listens(self, subject: str) -> bool:
        return self._up.is_set() and (
            matches(self._answers.pattern, subject) or any(matches(each.subject, subject) for each in self._deliveries)
        )

    def deliveries_of(self, subject: str) -> list[Delivery]:
        return [each for each in self._deliveries if self._up.is_set() and matches(each.subject, subject)]

    def take_answer(self, message: Message) -> None:
        if self._up.is_set():
            self._answers.deliver(message)

    def _check(self, subject: str, data: bytes, headers: Headers | None = None) -> None:
        check_subject(subject)
        if not self._up.is_set():
            raise BusUnavailableError(f"{subject}: the bus is not connected")
        if len(data) + header_bytes(headers or {}) > MAX_PAYLOAD_BYTES:
            raise BusError(f"{subject}: {len(data)} bytes and their headers, at most {MAX_PAYLOAD_BYTES} are sent")

    def _overflowed(self, subject: str) -> None:
        for callback in self._overflow_callbacks:
            callback(subject)


class MemorySubscription:
    def __init__(self, deliveries: list[Delivery], delivery: Delivery) -> None:
        self._deliveries, self._delivery = deliveries, delivery

    async def unsubscribe(self) -> None:
        if self._delivery in self._deliveries:
            self._deliveries.remove(self._delivery)
        await self._delivery.stop(_STOP_S)
