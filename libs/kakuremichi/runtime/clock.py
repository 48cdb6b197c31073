"""Time as an argument: the system's, and one that a test moves by hand."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    def wall_ms(self) -> int:
        """Milliseconds since 1970. May jump; dates and epochs only."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; for durations and timeouts."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """Stands still until `advance`; sleepers wake in the order of their time."""

    def __init__(self, wall_ms: int = 1_700_000_000_000) -> None:
        self._wall_ms = float(wall_ms)
        self._now = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def wall_ms(self) -> int:
        return int(self._wall_ms)

    def monotonic(self) -> float:
        return self._now

    def set_wall_ms(self, wall_ms: int) -> None:
        """Let the wall clock jump, back too; the monotonic one does not."""
        self._wall_ms = float(wall_ms)

    async def sleep(self, seconds: float) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now + seconds, waiting))
        await waiting

    async def advance(self, seconds: float) -> None:
        """Move on, waking each sleeper at its time and letting it run, those included that it makes sleep anew."""
        end = self._now + seconds
        await self._settle()
        while (due := self._next(end)) is not None:
            self._move(due)
            for at, waiting in self._sleepers:
                if at <= due and not waiting.done():
                    waiting.set_result(None)
            self._sleepers = [(at, waiting) for at, waiting in self._sleepers if not waiting.done()]
            await self._settle()
        self._move(end)

    def _next(self, end: float) -> float | None:
        return min((at for at, waiting in self._sleepers if at <= end and not waiting.done()), default=None)

    def _move(self, to: float) -> None:
        self._wall_ms += (to - self._now) * 1000
        self._now = to

    async def _settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
