"""What went by before this portal listened: read from the streams at its start, and after each lost connection."""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from kakuremichi.bus.port import Bus, BusError, Message
from kakuremichi.bus.stored import StreamReader
from kakuremichi.runtime.backoff import Backoff
from kakuremichi.runtime.waiting import first_of

log = structlog.get_logger()

CONNECT_S = 5.0
SETTLE_S = 2.0  # what was on its way into a stream at the first look is there at the second


class Past:
    """`takers` by stream, in the order of reading. They may be given the same message twice."""

    def __init__(
        self, bus: Bus, takers: Mapping[str, Callable[[Message], None]], *, settle_s: float = SETTLE_S
    ) -> None:
        self._bus, self._settle_s = bus, settle_s
        self._takers = [(StreamReader(bus, stream), take) for stream, take in takers.items()]
        self._due = asyncio.Event()
        self._backoff, self._failures = Backoff(), 0
        self._settled = 0  # generation of the connection that was looked at twice
        self.tried = asyncio.Event()
        """Set after the first attempt, also a failed one: who holds back what is new for the past's sake goes on."""

    async def run(self, stop: asyncio.Event) -> None:
        self._bus.on_connected(lambda _generation: self._due.set())
        try:
            while not stop.is_set():
                pause_s = await self._attempt(stop)
                self.tried.set()
                await first_of(self._due, stop, timeout_s=pause_s)
        finally:
            self.tried.set()

    async def _attempt(self, stop: asyncio.Event) -> float | None:
        """Read what has come; in how many seconds to look again, None is at the next connection."""
        try:
            await self._bus.wait_connected(CONNECT_S)
            self._due.clear()  # now, or the connection that was waited for would be taken for the next one
            generation = self._bus.generation
            count = sum([await self._read(reader, take, stop) for reader, take in self._takers])
        except BusError as error:
            self._failures += 1
            log.info("past not read", reason=str(error))
            return self._backoff.delay_s(self._failures)
        self._failures = 0
        log.info("past read", messages=count)
        if self._settled == generation:
            return None
        self._settled = generation
        return self._settle_s

    async def _read(self, reader: StreamReader, take: Callable[[Message], None], stop: asyncio.Event) -> int:
        count = 0
        async for page in reader.pages():
            if stop.is_set():
                break
            for message in page:
                take(message)
                await asyncio.sleep(0)  # one may hold 400 arrivals: requests have their turn between two
            count += len(page)
        return count
