"""One connection to nats-server, from its opening to its loss. It never comes back: a new one replaces it.

The client library can reconnect by itself, and that is off. Its reconnection sends what was queued before the loss
(a ghost of a publish that was reported as failed), gives up for good when credentials expire, and a callback that
raises leaves it "reconnecting" for ever. All of that goes away when the object does.
"""

import asyncio
import base64
import re
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from kakuremichi.bus import jetstream
from kakuremichi.bus.answers import Answers
from kakuremichi.bus.delivery import Delivery
from kakuremichi.bus.port import BusError, BusTimeoutError, BusUnavailableError, Message, header_bytes
from kakuremichi.runtime.backoff import Backoff
from kakuremichi.runtime.errors import reason_of

log = structlog.get_logger(__name__)

_VIOLATION = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]*)\"", re.IGNORECASE)
_UNAUTHORIZED = re.compile(r"authorization|authentication", re.IGNORECASE)
_FOREVER_S = 86400
_CUT_S = 0.1  # a dead peer, or a failed TLS handshake, would keep a graceful close waiting for ever


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are to nats-server: a user JWT, and the proof of the key that it names by a signature over the server's
    nonce. Asked for anew at each connection, so that short-lived ones may be renewed. No secret is ever sent.
    """

    jwt: str = field(repr=False)
    sign: Callable[[bytes], bytes] = field(repr=False)  # Ed25519, 64 bytes

    def connect_options(self) -> dict[str, object]:
        return {
            "user_jwt_cb": self.jwt.encode,
            "signature_cb": lambda nonce: base64.b64encode(self.sign(nonce.encode())),
        }


class CredentialsRefusedError(BusUnavailableError):
    """The server answered, and what it does not want is who we say to be: expired, revoked or foreign."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsOptions:
    """How to connect and when to doubt a connection. Times in seconds."""

    servers: tuple[str, ...]  # "nats://host:port"; "tls://host:port" together with `tls`
    name: str  # role/id/boot, seen in the server's monitor
    inbox_prefix: str  # "_INBOX.<role>" in the control plane, "reply.<id>" on a node
    tls: ssl.SSLContext | None = None  # then TLS comes first, or an answer in plain text could strip it
    connect_timeout_s: float = 3.0
    open_timeout_s: float = 15.0  # TCP, TLS, CONNECT and every subscription
    ping_interval_s: float = 10.0
    max_pings: int = 2
    probe_interval_s: float = 10.0  # ± 20 %
    probe_timeout_s: float = 3.0
    probe_misses: int = 3
    stable_s: float = 10.0  # a connection that lived shorter counts as a failed attempt
    store_timeout_s: float = 2.0
    close_timeout_s: float = 2.0
    queue_limit: int = 4096  # messages that wait in each subscription
    unsent_limit_bytes: int = 8 * 1024 * 1024  # a stalled peer: refuse rather than collect
    backoff: Backoff = field(default_factory=Backoff)


class Connection:
    """One generation. `lost` is set once, for good, by whatever notices first; `why` says what that was."""

    def __init__(self, options: NatsOptions, counts: "Counter[str]") -> None:
        self.answers = Answers(options.inbox_prefix)
        self.lost = asyncio.Event()
        self.why = ""
        self._options = options
        self._counts = counts
        self._client = Client()
        self._attached: dict[Delivery, Any] = {}
        self._refused: set[str] = set()  # subjects, in the server's lower case
        self._pings: set[asyncio.Task[float]] = set()

    async def open(self, server: str, credentials: Credentials) -> None:
        """Connect to one server and listen on the inbox; :class:`BusUnavailableError` says why not."""
        try:
            async with asyncio.timeout(self._options.open_timeout_s):
                await self._client.connect(**self._connect_options(server, credentials))
                reading = self._client._reading_task  # noqa: SLF001
                if reading is None or not self._client.is_connected:
                    # An INFO between CONNECT and PONG leaves the library "connecting" without an error.
                    raise BusUnavailableError(f"{server}: the server did not finish the greeting")
                reading.add_done_callback(self._read_loop_ended)
                await self._client.subscribe(self.answers.pattern, cb=self._take_answer)
                await self.round_trip(self._options.connect_timeout_s)
        except (OSError, TimeoutError, nats.errors.Error, BusError) as error:
            self.lose("never opened")
            refused = _UNAUTHORIZED.search(f"{error} {self._client.last_error}")
            kind = CredentialsRefusedError if refused else BusUnavailableError
            raise kind(f"{server}: {reason_of(error)}") from error

    async def attach(self, delivery: Delivery) -> None:
        """Subscribe on behalf of `delivery`. Whether the server allows it is known after a round trip."""
        self._attached[delivery] = None  # first, so that a second caller does not subscribe again

        async def take(message: Msg) -> None:
            delivery.offer(_received(message))

        try:
            self._attached[delivery] = await self._client.subscribe(delivery.subject, queue=delivery.queue, cb=take)
        except nats.errors.Error as error:
            raise BusUnavailableError(f"{delivery.subject}: {error}") from error

    async def detach(self, delivery: Delivery) -> None:
        subscription = self._attached.pop(delivery, None)
        if subscription is not None and not self._client.is_closed:
            await subscription.unsubscribe()

    def is_attached(self, delivery: Delivery) -> bool:
        return delivery in self._attached

    def is_refused(self, subject: str) -> bool:
        """Whether the server has told this connection that it may not subscribe to `subject`."""
        return subject.lower() in self._refused

    async def publish(self, subject: str, data: bytes, headers: dict[str, str], reply: str) -> None:
        if self._client.pending_data_size > self._options.unsent_limit_bytes:
            raise BusUnavailableError(f"{subject}: the server does not read, too much waits to be sent")
        # The library counts the data only; the server counts the headers too, and hangs up on who sends more.
        if headers and len(data) + header_bytes(headers) > self._client.max_payload:
            raise BusError(f"{subject}: {len(data)} bytes and their headers are more than the server takes")
        try:
            await self._client.publish(subject, data, reply=reply, headers=headers or None)
        except (nats.errors.MaxPayloadError, nats.errors.BadSubjectError, nats.errors.BadHeaderError) as error:
            raise BusError(f"{subject}: {error}") from error
        except (nats.errors.Error, OSError) as error:
            raise BusUnavailableError(f"{subject}: no connection ({error})") from error

    async def round_trip(self, within_s: float) -> None:
        """PING and PONG through the read loop: what was sent before has been read, what was refused is known.

        The ping is never cancelled while the connection lives: the library would let the PONG of a cancelled one
        raise inside its read loop and go deaf.
        """
        ping = asyncio.get_running_loop().create_task(self._client.rtt(_FOREVER_S))
        self._pings.add(ping)
        ping.add_done_callback(self._pings.discard)
        done, _ = await asyncio.wait({ping}, timeout=within_s)
        if not done:
            raise BusTimeoutError(f"the server did not answer a ping within {within_s:g} s")
        if (error := ping.exception()) is not None:
            raise BusUnavailableError(f"ping: {error}")

    def lose(self, why: str) -> None:
        """Declare the connection dead. The first reason stays."""
        if not self.lost.is_set():
            self.why = why
            self.lost.set()

    async def close(self) -> None:
        """Drop the socket and everything that waits for it; bounded in time, raises nothing.

        A connection that still lives sends what it has been given first, answers above all.
        """
        within_s = _CUT_S if self.lost.is_set() else self._options.close_timeout_s
        self.lose("closed by us")
        self.answers.fail_all(jetstream.lost)
        closing = asyncio.get_running_loop().create_task(self._client.close())
        try:
            await asyncio.wait({closing}, timeout=within_s)
        finally:
            self._cut(closing)

    def _cut(self, closing: "asyncio.Task[None]") -> None:
        # A close that was cut short, or that raised, leaves tasks and the socket behind.
        client = self._client
        writer = getattr(client._transport, "_io_writer", None)  # noqa: SLF001
        if writer is not None:
            # Python 3.11.2 (Debian 12) raises this where a TLS transport was closed already; 3.11.4 does not.
            with suppress(AttributeError):
                writer.transport.abort()
        readers = [subscription._wait_for_msgs_task for subscription in client._subs.values()]  # noqa: SLF001
        for task in (closing, *self._pings, *filter(None, readers)):
            task.cancel()
            task.add_done_callback(_look_at)  # else its error would be reported as never retrieved

    def _connect_options(self, server: str, credentials: Credentials) -> dict[str, Any]:
        options: dict[str, Any] = {
            "servers": [server],
            "name": self._options.name,
            "inbox_prefix": self._options.inbox_prefix,
            "allow_reconnect": False,
            "connect_timeout": self._options.connect_timeout_s,
            "max_reconnect_attempts": 1,  # for the first connection: fail soon, the supervisor has the patience
            "reconnect_time_wait": 0.05,
            "ping_interval": self._options.ping_interval_s,
            "max_outstanding_pings": self._options.max_pings,
            "pending_size": 0,
            "error_cb": self._on_error,
            "closed_cb": self._on_closed,
            **credentials.connect_options(),
        }
        if self._options.tls is not None:
            options |= {"tls": self._options.tls, "tls_handshake_first": True}
        return options

    async def _take_answer(self, message: Msg) -> None:
        self.answers.deliver(_received(message))

    def _read_loop_ended(self, task: "asyncio.Task[None]") -> None:
        # The library logs and stays "connected" when its read loop dies: nothing would ever be received again.
        error = None if task.cancelled() else task.exception()
        self.lose(f"the read loop ended ({error or self._client.last_error or 'end of stream'})")

    async def _on_closed(self) -> None:
        self.lose(f"closed ({self._client.last_error or 'no reason given'})")

    async def _on_error(self, error: Exception) -> None:
        # The library awaits this in its read loop, which an exception from here would end.
        try:
            self._note(error)
        except Exception:
            log.exception("error callback failed")

    def _note(self, error: Exception) -> None:
        violation = _VIOLATION.search(str(error))
        if violation is None:
            log.debug("nats client error", error=repr(error))
            return
        kind, subject = violation.groups()
        self._counts["violations"] += 1
        log.error("the bus refused us a subject", kind=kind, subject=subject)
        if kind.lower() == "subscription":
            self._refused.add(subject.lower())
        else:
            self.answers.fail(subject, lambda asked: BusError(f"{asked}: this role may not publish there"))


def _look_at(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled():
        task.exception()


def _received(message: Msg) -> Message:
    return Message(message.subject, message.data, message.reply, message.headers or {})
