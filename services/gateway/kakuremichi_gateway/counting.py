"""What passed through each service of this gateway, from HAProxy's and nftables' own counters. Never who it was.

Both are read on demand. Whoever asks soon after somebody else is told what he was told, so that nobody can keep the
gateway busy by asking.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import structlog

from kakuremichi.dataplane.haproxy.client import ProxyError
from kakuremichi.dataplane.haproxy.stats import Counters, Ledger, Workers, activity
from kakuremichi.dataplane.nftables.reader import Counters as Flows
from kakuremichi.model.ids import ServiceId
from kakuremichi.node.renewal import stopped_within

log = structlog.get_logger()

FRESH_S = 1.0  # so old may be what is told again
LEAST_SPAN_S, MOST_SPAN_S = 0.5, 30.0  # between the two readings that a rate is made of
FIRST_EVERY_S = 1.0  # until HAProxy has answered once
NOTE_WITHIN_S = 1.0


@dataclass(frozen=True, slots=True)
class HttpReading:
    """`activity` is (sessions, rate) at that moment."""

    at: float  # monotonic
    totals: Mapping[ServiceId, Counters]
    activity: Mapping[ServiceId, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class FlowReading:
    """`rates` are new flows a second; None if there is no earlier reading to compare with."""

    at: float  # monotonic
    totals: Mapping[ServiceId, Flows]
    rates: Mapping[ServiceId, float] | None = None


class HttpCount:
    """What HAProxy carries. Two readings at one time would enter the ledger twice, so they take turns."""

    def __init__(
        self,
        owners: Callable[[], Mapping[int, ServiceId]],
        workers: Callable[[], Awaitable[Workers]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`owners` are services by their backend's number, `workers` reads what HAProxy counts."""
        self._owners, self._workers, self._clock = owners, workers, clock
        self._ledger, self._turn = Ledger(), asyncio.Lock()
        self._last: HttpReading | None = None
        self.since: float | None = None  # of the clock; None until HAProxy has answered once

    async def read(self, *, fresh_s: float = 0.0) -> HttpReading:
        """Now, or what was read less than `fresh_s` ago. Raises ProxyError."""
        async with self._turn:
            if self._last is not None and self._clock() - self._last.at < fresh_s:
                return self._last
            try:
                workers = await self._workers()
            except OSError as error:
                raise ProxyError(f"show stat: {error.strerror or error}") from error
            owners, now = self._owners(), self._clock()
            self._last = HttpReading(now, dict(self._ledger.update(workers, owners)), activity(workers, owners))
            self.since = now if self.since is None else self.since
            return self._last

    async def note(self) -> None:
        """Read what a reload would end, unless that takes too long: what is counted may not hold up what is served."""
        with suppress(ProxyError, TimeoutError):
            async with asyncio.timeout(NOTE_WITHIN_S):
                await self.read()

    async def begin(self, stop: asyncio.Event) -> None:
        """Read once as soon as HAProxy answers: what it counts from then on is counted, asked for or not."""
        while not stop.is_set() and self.since is None:
            try:
                await self.read()
            except ProxyError as error:
                log.debug("haproxy not counted yet", reason=str(error))
                await stopped_within(FIRST_EVERY_S, stop)


class FlowCount:
    """What nftables carries."""

    def __init__(
        self,
        counts: Callable[[], Awaitable[Mapping[ServiceId, Flows]]],
        *,
        clock: Callable[[], float] = time.monotonic,
        least_span_s: float = LEAST_SPAN_S,
    ) -> None:
        self._counts, self._clock, self._least_span_s = counts, clock, least_span_s
        self._turn = asyncio.Lock()
        self._last: FlowReading | None = None

    async def read(self, *, fresh_s: float = 0.0, rates: bool = False) -> FlowReading:
        """Now, or what was read less than `fresh_s` ago. Raises TableError.

        The kernel keeps no rate. With `rates` they are those since the last reading; if that is too long ago, or was
        only just now, the kernel is read twice, half a second apart.
        """
        async with self._turn:
            last, age_s = self._last, MOST_SPAN_S
            if last is not None:
                age_s = self._clock() - last.at
                if age_s < fresh_s and not (rates and last.rates is None):
                    return last
            base = last if age_s < MOST_SPAN_S else None
            if rates:
                base = base or await self._now()
                await asyncio.sleep(max(0.0, base.at + self._least_span_s - self._clock()))
            now = await self._now()
            self._last = rated(base, now) if base and now.at - base.at >= self._least_span_s else now
            return self._last

    async def _now(self) -> FlowReading:
        return FlowReading(self._clock(), await self._counts())


def rated(before: FlowReading, now: FlowReading) -> FlowReading:
    """`now` with its rates since `before`. Pure.

    A service that was not there before began at zero; a counter that went back did so too.
    """
    rates = {}
    for service, counted in now.totals.items():
        earlier = before.totals[service].connections if service in before.totals else 0
        added = counted.connections - earlier if counted.connections >= earlier else counted.connections
        rates[service] = added / (now.at - before.at)
    return FlowReading(now.at, now.totals, rates)
