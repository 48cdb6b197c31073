"""Listens to every node's reports, and waits on behalf of a request until a write is applied."""

import asyncio
import time
from collections.abc import Callable

import structlog

from kakuremichi.bus.port import Bus, Message, Subscription
from kakuremichi.wire import subjects
from kakuremichi.wire.arrivals import ArrivalBatch
from kakuremichi.wire.codec import WireError, decode, decode_any
from kakuremichi.wire.requests import AnyReport, Report
from kakuremichi_portal.principal import EVERYTHING, within
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.progress import LIVE_FOR_S, Concern, Progress, Standing
from kakuremichi_portal.propagation import Arrivals
from kakuremichi_portal.registry import Registry

log = structlog.get_logger()

FORGET_AFTER_S = 86400.0
LIVE_TIMEOUT_S = 1.0


class Reports:
    """Every portal hears every report: a plain subscription, no queue group."""

    def __init__(self, bus: Bus, registry: Registry, clock: Callable[[], float] = time.monotonic) -> None:
        self._bus, self._registry, self._clock = bus, registry, clock
        self._changed = asyncio.Event()
        self._listening_since = clock()
        self.progress = Progress()
        self.arrivals = Arrivals()
        self.heard: Callable[[Report], None] = lambda _report: None  # told of each report that is believed
        self.refused = 0

    async def listen(self) -> Subscription:
        self._listening_since = self._clock()
        return await self._bus.subscribe(subjects.REPORT, self.hear)

    def count_live(self) -> int:
        return len(self.progress.live(self._clock()))

    async def hear(self, message: Message) -> None:
        at = self._clock()
        try:
            report: Report = decode_any(message.data, AnyReport, name="report")
        except WireError:
            self.refused += 1
            return
        # The bus lets a node write under its own subject only; a body that names another is not believed.
        if report.node_id != subjects.node_of(message.subject):
            self.refused += 1
            return
        self.progress.hear(report, at)
        self.arrivals.hear(report, time.time())
        self.heard(report)
        self._changed.set()
        self._changed = asyncio.Event()

    def learn(self, message: Message) -> None:
        """Take a stored message of the registry: when items came to nodes, as this portal maybe did not hear."""
        try:
            self.arrivals.learn(decode(message.data, ArrivalBatch))
        except WireError:
            self.refused += 1

    async def wait_applied(self, concern: Concern, *, deadline_s: float) -> Standing:
        """How the nodes stand once none is pending, or at `deadline_s` on the clock of this object."""
        await self._learn_who_is_live(concern)
        while True:
            now = self._clock()
            standing = self.progress.standing(concern, now)
            if not standing.pending or now >= deadline_s:
                return standing
            changed = self._changed  # of the same moment as the standing: no await between them
            try:
                async with asyncio.timeout(deadline_s - now):
                    await changed.wait()
            except TimeoutError:
                continue

    async def _learn_who_is_live(self, concern: Concern) -> None:
        """A portal that has just started has not heard everybody yet: let the registry say who is live."""
        now = self._clock()
        self.progress.forget_silent(now - FORGET_AFTER_S)
        young = now - self._listening_since < LIVE_FOR_S
        if not young or all(self.progress.heard(node) for node in concern.nodes):
            return
        try:
            with within(EVERYTHING):  # it is for everybody who waits, not for this caller only
                gateways, agents = await asyncio.gather(
                    self._registry.nodes("portal", "gateway", timeout_s=LIVE_TIMEOUT_S),
                    self._registry.nodes("portal", "agent", timeout_s=LIVE_TIMEOUT_S),
                )
        except ProblemError as error:
            log.warning("live nodes unknown", reason=error.detail)
            return
        live = [node.node_id for node in (*gateways, *agents) if node.state == "live"]
        self.progress.presume_live(live, self._listening_since + LIVE_FOR_S)
