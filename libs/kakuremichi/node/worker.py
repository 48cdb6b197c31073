"""The node's one worker: takes what the feeds changed, makes it true section by section, says what became of it.

Everything that came while a pass ran is the next pass, so a busy node coalesces by itself and an idle one
does not wait. Under a stream of changes passes keep a distance: most of what one costs, a conversation with HAProxy,
an `nft`, a report, it costs once, whether it brings one change or ten.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from kakuremichi.reconcile.follower import Applied
from kakuremichi.reconcile.holding import Key
from kakuremichi.wire.requests import Timing

log = structlog.get_logger()
tracer = trace.get_tracer("kakuremichi.node")
_propagator = TraceContextTextMapPropagator()

FULL_COMPARE_S = 600.0
RETRY_S = (0.5, 60.0)
REST_S = 0.05  # between two passes; reports keep a longer one, so nobody learns of it later
MOST_TIMINGS = 32  # in a report
EVERYTHING = "*"  # the key of an error that concerns a whole section

Errors = Mapping[Key, str]
Perform = Callable[[], Awaitable[Errors]]


@dataclass(frozen=True, slots=True)
class Plan:
    """One pass: the keys on which it has the last word, what was refused, and the steps in their order."""

    scope: frozenset[Key]
    refused: Errors
    steps: Sequence[tuple[str, Perform]]  # (section's name, what to do); each may be repeated


class Node(Protocol):
    """What differs between a gateway and an agent."""

    def plan(self, keys: frozenset[Key]) -> Plan:
        """Take these keys' records into the desired state and say how to make them true. Pure but for that."""
        ...

    def plan_all(self, keys: frozenset[Key]) -> Plan:
        """Compare everything that is desired with everything that is really there. `keys` have changed meanwhile."""
        ...


@dataclass(frozen=True, slots=True)
class Done:
    """What one pass did, for the report."""

    cursors: Mapping[str, int]  # feed → feed_seq that is applied
    errors: Errors  # all that stand, not only this pass's
    timings: tuple[Timing, ...]
    received_ns: tuple[int, ...] = ()  # of each timing, time.monotonic_ns
    span: SpanContext | None = None  # of the pass: its report is the next step of the same trace


class Worker:
    def __init__(self, node: Node, on_done: Callable[[Done], None], ready: Callable[[], bool] = lambda: True) -> None:
        """`ready` says whether a whole state of every feed is held: before that nothing may be compared or removed."""
        self._node, self._on_done, self._ready = node, on_done, ready
        self._todo: list[Applied] = []
        self._whole = False
        self._retry: frozenset[Key] = frozenset()
        self._errors: dict[Key, str] = {}
        self._cursors: dict[str, int] = {}
        self._failures = 0
        self._rested_at = 0.0  # of the event loop's clock
        self._wake = asyncio.Event()

    def take(self, applied: Applied) -> None:
        """Called by the followers; never waits."""
        self._todo.append(applied)
        self._whole = self._whole or applied.whole
        self._wake.set()

    def redo(self, keys: Iterable[Key]) -> None:
        """Look at these keys once more; never waits."""
        self._retry |= frozenset(keys)
        self._wake.set()

    def compare_everything(self) -> None:
        """At start and on doubt."""
        self._whole = True
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(FULL_COMPARE_S * random.uniform(0.8, 1.2), self.compare_everything)
        stopper = asyncio.create_task(self._wake_at(stop))
        try:
            while not stop.is_set():
                await self._wake.wait()
                self._wake.clear()
                if self._whole:
                    timer.cancel()
                    timer = loop.call_later(FULL_COMPARE_S * random.uniform(0.8, 1.2), self.compare_everything)
                if (self._todo or self._whole or self._retry) and self._ready():
                    await asyncio.sleep(self._rested_at - loop.time())
                    await self._pass()
                    self._rested_at = loop.time() + REST_S
        finally:
            timer.cancel()
            stopper.cancel()

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    async def _pass(self) -> None:
        batch, whole, retry = self._todo, self._whole, self._retry
        self._todo, self._whole, self._retry = [], False, frozenset()
        keys = retry.union(*(applied.change.keys for applied in batch))
        with _spans(batch) as span:
            # Either, not both: each verifies every signature that it meets.
            plan = self._node.plan_all(keys) if whole else self._node.plan(keys)
            decided_ns = time.monotonic_ns()
            errors = dict(plan.refused)
            for section, perform in plan.steps:
                with tracer.start_as_current_span(section):
                    errors.update(await perform())
            span.set_attribute("kakuremichi.errors", len(errors))
            self._settle(batch, plan, errors, whole=whole, decided_ns=decided_ns, span=span.get_span_context())

    def _settle(
        self, batch: list[Applied], plan: Plan, errors: dict[Key, str], *, whole: bool, decided_ns: int,
        span: SpanContext,
    ) -> None:  # fmt: skip
        done_ns = time.monotonic_ns()
        if whole:
            self._errors = errors
        else:
            self._errors = {key: text for key, text in self._errors.items() if key not in plan.scope} | errors
        for applied in batch:
            self._cursors[applied.feed] = max(applied.feed_seq, self._cursors.get(applied.feed, 0))
        timings = tuple(
            Timing(
                applied.feed,
                applied.feed_seq,
                (decided_ns - applied.received_ns) // 1000,
                (done_ns - applied.received_ns) // 1000,
            )
            for applied in batch
        )
        self._failures = self._failures + 1 if errors else 0
        if errors:
            pause = min(RETRY_S[1], RETRY_S[0] * 2 ** min(self._failures, 10)) * random.uniform(0.8, 1.2)
            asyncio.get_running_loop().call_later(pause, self._try_again, frozenset(errors))
            log.warning("pass left errors", errors={"/".join(key): text for key, text in errors.items()})
        if whole:
            log.info("everything compared", took_ms=round((done_ns - decided_ns) / 1e6, 2), errors=len(errors))
        if batch:
            log.info(
                "feed items applied",
                items=len(batch),
                feeds={applied.feed: applied.feed_seq for applied in batch},
                took_ms=round((done_ns - min(applied.received_ns for applied in batch)) / 1e6, 2),
            )
        received_ns = tuple(applied.received_ns for applied in batch)[-MOST_TIMINGS:]
        caused = span if any(applied.traceparent for applied in batch) else None
        self._on_done(Done(dict(self._cursors), dict(self._errors), timings[-MOST_TIMINGS:], received_ns, caused))

    def _try_again(self, keys: frozenset[Key]) -> None:
        left = keys & self._errors.keys()
        self._retry |= left
        # What is wrong with a whole table or interface is no matter of one key.
        self._whole = self._whole or any(name == EVERYTHING for _, name in left)
        if left:
            self._wake.set()


class _spans:  # noqa: N801  # reads as a function at its one place of use
    """One span a pass, in the trace of the change that caused it; other changes of the same pass are linked."""

    def __init__(self, batch: list[Applied]) -> None:
        contexts = [_context(applied.traceparent) for applied in batch if applied.traceparent]
        parent = contexts[0] if contexts else None
        links = [Link(trace.get_current_span(context).get_span_context()) for context in contexts[1:]]
        start_ns = time.time_ns()
        if batch:
            start_ns -= time.monotonic_ns() - min(applied.received_ns for applied in batch)
        self._span = tracer.start_as_current_span("apply", context=parent, links=links, start_time=start_ns)

    def __enter__(self) -> Span:
        return self._span.__enter__()

    def __exit__(self, *raised: object) -> None:
        self._span.__exit__(*raised)  # type: ignore[arg-type]


def _context(traceparent: str) -> Context:
    return _propagator.extract({"traceparent": traceparent}, context=Context())
