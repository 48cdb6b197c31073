"""Reports: how far this node has come. Not facts; sent when something changed and every 30 s.

The answer carries the signed heads of the node's feeds, so a report is also the bus's proof of life and the
beacon of the feed that has none.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext

from kakuremichi import __version__
from kakuremichi.bus.port import Bus, BusError
from kakuremichi.model.ids import NodeId
from kakuremichi.node.worker import MOST_TIMINGS, Done
from kakuremichi.reconcile.follower import Follower
from kakuremichi.reconcile.holding import Key
from kakuremichi.reconcile.verify import NotTrustedError
from kakuremichi.runtime.waiting import first_of
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import WireError, decode, encode
from kakuremichi.wire.records import TAGS, Head
from kakuremichi.wire.requests import Cursor, ItemError, ReportAnswer, TimedReport, Timing
from kakuremichi.wire.signing import Signed

log = structlog.get_logger()
tracer = trace.get_tracer("kakuremichi.node")

LEAST_S = 0.25
EVERY_S = 30.0  # also without any change: the bus's supervisor asks for it, ± 20 %
TIMEOUT_S = 3.0


@dataclass
class Reporter:
    bus: Bus
    node: NodeId
    boot_id: bytes
    followers: tuple[Follower, ...]
    networks: Callable[[], Iterable[str]] = tuple
    warnings: dict[str, str] = field(default_factory=dict)  # one sentence a topic
    found: Callable[[], Mapping[Key, str]] = dict  # errors that are of no pass: what hinders from outside
    _done: Done = field(default_factory=lambda: Done({}, {}, ()))
    _timings: list[tuple[Timing, int]] = field(default_factory=list)  # each with its receipt, time.monotonic_ns
    _causes: list[SpanContext] = field(default_factory=list)  # passes that no answered report has told of yet
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def done(self, done: Done) -> None:
        """A pass ended."""
        self._done = done
        self._timings = [*self._timings, *zip(done.timings, done.received_ns, strict=True)][-MOST_TIMINGS:]
        if done.span is not None:
            self._causes = [*self._causes, done.span][-MOST_TIMINGS:]
        self._wake.set()

    def warn(self, topic: str, sentence: str) -> None:
        """Report `sentence` until it is replaced; "" takes it back."""
        before = dict(self.warnings)
        if sentence:
            self.warnings[topic] = sentence
        else:
            self.warnings.pop(topic, None)
        if self.warnings != before:
            self._wake.set()

    def soon(self) -> None:
        """Something that a report says may have changed."""
        self._wake.set()

    @property
    def applied(self) -> Mapping[str, int]:
        """Feed → feed_seq that is applied."""
        return self._done.cursors

    @property
    def errors(self) -> int:
        """How many records are not applied, or hindered from outside."""
        return len(self._errors())

    async def run(self, stop: asyncio.Event) -> None:
        self.bus.on_connected(lambda _generation: self._wake.set())
        while not stop.is_set():
            sent_at = time.monotonic()
            self._wake.clear()
            if self.bus.generation:
                await self._send()
            # The first change after a quiet time is reported at once; a burst shares one report every 250 ms.
            await first_of(stop, timeout_s=max(0.0, LEAST_S - (time.monotonic() - sent_at)))
            await first_of(self._wake, stop)

    async def _send(self) -> None:
        try:
            await self.send()
        except (BusError, WireError) as error:
            log.info("report not answered", reason=str(error))

    async def send(self) -> None:
        """Report now. :class:`BusError` if nobody answers: for the bus's supervisor a sign of a dead connection."""
        report, sent, causes = self._report(), self._timings, self._causes
        with _reporting(causes):
            reply = await self.bus.request(subjects.report(self.node), encode(report), timeout_s=TIMEOUT_S)
        answer = decode(reply.data, ReportAnswer)
        # What was told is done with; what came while the answer was under way is not.
        self._timings = [each for each in self._timings if each not in sent]
        self._causes = [each for each in self._causes if each not in causes]
        for signed in answer.heads:
            self._take_head(signed)

    def _take_head(self, signed: Signed) -> None:
        for follower in self.followers:
            try:
                head: Head = follower.verifier.head(signed)
            except (NotTrustedError, WireError) as error:
                follower.counters.noise += 1
                log.warning("head refused", reason=str(error))
                return
            follower.take_head(head, signed)

    def _report(self) -> TimedReport:
        holdings = [follower.holding for follower in self.followers]
        unsupported = [
            f"{holding.feed}: {tag} is not understood" for holding in holdings for tag in holding.unsupported()
        ]
        held = [
            f"{holding.feed}: {len(holding.withheld)} removals are held back until they are confirmed"
            for holding in holdings
            if holding.withheld
        ]
        alarms = [f"{follower.feed}: {alarm}" for follower in self.followers for alarm in sorted(follower.alarms)]
        now_ns = time.monotonic_ns()
        return TimedReport(
            node_id=self.node,
            boot_id=self.boot_id,
            version=__version__,
            tags=TAGS,
            cursors=tuple(
                Cursor(holding.feed, holding.cursor.log_id, self._done.cursors.get(holding.feed, 0))
                for holding in holdings
                if holding.cursor is not None
            ),
            errors=tuple(
                ItemError(_feed_of(kind, holdings[0].feed, holdings[-1].feed), f"{kind}/{key}"[:512], text[:512])
                for (kind, key), text in self._errors()
            ),
            timings=tuple(timing for timing, _ in self._timings),
            ages_us=tuple((now_ns - received_ns) // 1000 for _, received_ns in self._timings),
            networks=tuple(sorted(self.networks()))[:128],
            held=tuple(held)[:16],
            warnings=(*self.warnings.values(), *unsupported, *alarms)[:16],
        )

    def _errors(self) -> list[tuple[Key, str]]:
        """At most as many as a report holds; those of a pass come first, and are the ones said of a key."""
        found = {key: text for key, text in self.found().items() if key not in self._done.errors}
        return [*sorted(self._done.errors.items()), *sorted(found.items())][:64]


@contextmanager
def _reporting(causes: Sequence[SpanContext]) -> Iterator[None]:
    """A span in the trace of the oldest change that the report tells of, linked to the others that share it."""
    if not causes:
        yield
        return
    parent = trace.set_span_in_context(trace.NonRecordingSpan(causes[0]), Context())
    with tracer.start_as_current_span("report", context=parent, links=[Link(cause) for cause in causes[1:]]):
        yield


def _feed_of(kind: str, shared: str, own: str) -> str:
    return own if kind == "target" else shared
