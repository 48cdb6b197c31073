"""Who waits for which answer: an inbox of our own, one token per request. The client library's has no such futures.

Each connection has its own inbox, so that an answer to an older one reaches nobody.
"""

import asyncio
import secrets
from collections.abc import Callable

from kakuremichi.bus.port import Ack, BusError, Message


class Answers:
    """Futures by inbox token. `pattern` is what the connection subscribes to."""

    def __init__(self, inbox_prefix: str) -> None:
        self._prefix = f"{inbox_prefix}.{secrets.token_hex(8)}"
        self._waiting: dict[str, tuple[str, asyncio.Future[Message]]] = {}

    @property
    def pattern(self) -> str:
        return f"{self._prefix}.*"

    def expect(self, subject: str) -> tuple[str, "asyncio.Future[Message]"]:
        """An inbox for the answer to a message to `subject`, and the future that will hold it."""
        reply = f"{self._prefix}.{secrets.token_hex(8)}"
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[reply] = (subject, future)
        future.add_done_callback(lambda _: self._waiting.pop(reply, None))
        return reply, future

    def deliver(self, message: Message) -> None:
        _, future = self._waiting.get(message.subject, ("", None))
        if future is not None and not future.done():
            future.set_result(message)

    def fail(self, subject: str, error: Callable[[str], Exception]) -> None:
        """Fail all that wait for an answer to `subject`; the server names it in lower case."""
        for asked, future in list(self._waiting.values()):
            if asked.lower() == subject.lower() and not future.done():
                future.set_exception(error(asked))

    def fail_all(self, error: Callable[[str], Exception]) -> None:
        for asked, future in list(self._waiting.values()):
            if not future.done():
                future.set_exception(error(asked))


def settle(future: "asyncio.Future[Ack]", outcome: Ack | BusError) -> None:
    """Tell the sender what became of a stored message, unless it no longer asks."""
    if future.done():
        return
    if isinstance(outcome, BusError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
