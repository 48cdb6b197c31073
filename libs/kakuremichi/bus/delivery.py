"""From the read loop to a handler: one bounded queue for each subscription, and a task for each message at once.

The read loop never waits for a handler, and a handler that raises costs one message. What does not fit is dropped,
counted and told: the follower behind it resyncs, because a missing item can only be found again in a snapshot.
"""

import asyncio
from collections import Counter
from collections.abc import Callable

import structlog

from kakuremichi.bus import spans
from kakuremichi.bus.port import Handler, Message

log = structlog.get_logger(__name__)


class Delivery:
    """The messages of one subscription on their way to its handler: in order, `at_once` of them at a time."""

    def __init__(
        self,
        subject: str,
        queue: str,
        handler: Handler,
        *,
        limit: int,
        counts: "Counter[str]",
        on_overflow: Callable[[str], None],
        at_once: int = 1,
    ) -> None:
        self.subject, self.queue = subject, queue
        self._handler = handler
        self._waiting: asyncio.Queue[Message] = asyncio.Queue(limit)
        self._counts = counts
        self._on_overflow = on_overflow
        self._overflowing = False
        self._stopping = False
        self._busy: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        self._tasks = frozenset(loop.create_task(self._run(), name=f"handle {subject}") for _ in range(at_once))

    @property
    def idle(self) -> bool:
        """Nothing waits and no handler runs."""
        return not self._busy and self._waiting.empty()

    def offer(self, message: Message) -> None:
        """Queue a message for the handler, or drop it. Never waits: this runs in the read loop."""
        if self._stopping:
            return
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            self._counts["overflowed"] += 1
            if not self._overflowing:  # once per episode, however many are lost in it
                self._overflowing = True
                log.warning("subscription overflowed", subject=self.subject, limit=self._waiting.maxsize)
                self._on_overflow(self.subject)
        else:
            self._overflowing = False

    async def stop(self, within_s: float) -> None:
        """Let the handler finish what is in hand for at most `within_s` seconds; what waits is dropped."""
        self._stopping = True
        while not self._waiting.empty():
            self._waiting.get_nowait()
        # The handler itself may be who unsubscribes; its task ends after it.
        others = {task for task in self._tasks if task is not asyncio.current_task()}
        if busy := others & self._busy:
            await asyncio.wait(busy, timeout=within_s)
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others)

    async def _run(self) -> None:
        task = asyncio.current_task()
        while not self._stopping and task is not None:
            message = await self._waiting.get()
            self._busy.add(task)
            try:
                await self._handle(message)
            finally:
                self._busy.discard(task)

    async def _handle(self, message: Message) -> None:
        try:
            with spans.handling(message, self.queue):
                await self._handler(message)
        except Exception:
            self._counts["handler_errors"] += 1
            log.exception("handler failed", subject=self.subject)
        else:
            self._counts["handled"] += 1
