"""What a service may ask of the bus. NATS and the fake in memory both keep to it; one contract suite says so."""

from asyncio import Future
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

Headers = Mapping[str, str]


def header_bytes(headers: Headers) -> int:
    """How much of a message's allowed size its headers take: a first line, `name: value` lines and an empty one."""
    lines = sum(len(name.encode()) + len(value.encode()) + 4 for name, value in headers.items())
    return len("NATS/1.0\r\n\r\n") + lines if headers else 0


class BusError(Exception):
    """The bus did not do what was asked; the text is a sentence."""


class BusUnavailableError(BusError):
    """There is no connection now. Nothing was sent, nothing is buffered to be sent later."""


class BusTimeoutError(BusError):
    """No answer came in time; whether the other side acted is unknown."""


@dataclass(frozen=True, slots=True)
class Message:
    subject: str
    data: bytes
    reply: str = ""
    headers: Headers = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ack:
    """JetStream has stored a message: in which stream, at which sequence, and whether it had it already."""

    stream: str
    seq: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class StreamState:
    first_seq: int
    last_seq: int
    messages: int
    created: str  # changes when the stream was made anew


Handler = Callable[[Message], Awaitable[None]]


class Subscription(Protocol):
    async def unsubscribe(self) -> None: ...


class Bus(Protocol):
    """One supervised connection. Subscriptions outlive reconnects; messages sent meanwhile are lost, never late."""

    @property
    def generation(self) -> int:
        """Grows with each new connection; 0 before the first. Followers resync when it changes."""
        ...

    async def wait_connected(self, timeout_s: float) -> None:
        """Return once connected; :class:`BusUnavailableError` after `timeout_s` seconds."""
        ...

    def on_connected(self, callback: Callable[[int], None]) -> None:
        """Call `callback(generation)` after each new connection, its subscriptions standing."""
        ...

    def on_overflow(self, callback: Callable[[str], None]) -> None:
        """Call `callback(subject)` when messages of a subscription are dropped because its queue is full."""
        ...

    async def publish(self, subject: str, data: bytes, *, headers: Headers | None = None, reply: str = "") -> None: ...

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: Headers | None = None
    ) -> Message: ...

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "", at_once: int = 1) -> Subscription:
        """Handle messages in the order of their arrival, `at_once` at a time; one after another unless told otherwise.

        A handler that raises is logged and counted, the next message comes.
        """
        ...

    async def store(self, subject: str, data: bytes, *, headers: Headers | None = None) -> "Future[Ack]":
        """Publish into a stream. Returns once it is sent; the future holds the ack, so a caller may send ahead.

        The future fails with :class:`BusTimeoutError` (2 s without an ack), :class:`BusUnavailableError`, or
        :class:`BusError` with the server's sentence.
        """
        ...

    async def stream_state(self, stream: str) -> StreamState:
        """`STREAM.INFO`; :class:`BusError` if there is no such stream or no leader answers."""
        ...

    async def last_stored(self, stream: str, subject: str) -> Message | None:
        """The newest message of `subject` in `stream`, for a relay that looks for its place."""
        ...

    async def stored(self, stream: str, seq: int) -> Message | None:
        """The message at `seq` of `stream`; None if the stream does not have it, or not any more."""
        ...

    async def close(self) -> None: ...
