"""Which spans are worth recording where no collector asked for all of them: those of changes.

A trace of one change is some sixty spans in six processes. Of a flood of changes only some are traced, so that looking
on never costs a tenth of the work.
"""

import time
from collections.abc import Callable, Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, TraceState
from opentelemetry.util.types import Attributes

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_METHOD = "http.request.method"
_DESTINATION = "messaging.destination.template"
_BEGUN_BY_NODES = "req.keyring.announce.*"


_ids = RandomIdGenerator()

BURST = 40.0
PER_S = 10.0


class Beginnings(Sampler):
    """A root span is recorded if it begins a change: a request that writes, or a node's announcement of its key.

    `BURST` at once, then `PER_S` a second. The others have their trace's id all the same.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._left, self._since = clock, BURST, clock()

    def should_sample(  # noqa: PLR0917  # the signature is the SDK's
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        said = attributes or {}
        writes = kind is SpanKind.SERVER and said.get(_METHOD, "GET") not in _READING
        announces = kind is SpanKind.CLIENT and said.get(_DESTINATION) == _BEGUN_BY_NODES
        del trace_state
        sampler = ALWAYS_ON if (writes or announces) and self._take() else ALWAYS_OFF
        return sampler.should_sample(parent_context, trace_id, name, kind, attributes, links)

    def get_description(self) -> str:
        return "Beginnings of changes"

    def _take(self) -> bool:
        now = self._clock()
        self._left, self._since = min(BURST, self._left + (now - self._since) * PER_S), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class OfChanges(ParentBased):
    """What others have decided for a trace is kept to."""

    def __init__(self) -> None:
        super().__init__(Beginnings())


def of_changes() -> Sampler:
    return OfChanges()


def may_be_recorded(context: Context | None = None) -> bool:
    """Whether a span below `context`, or below the current one, could be recorded: where not, none need be made.

    False only below a span that is not, where this process keeps to what others have decided.
    """
    above = trace.get_current_span(context).get_span_context()
    if above.trace_flags.sampled or not above.is_valid:
        return True
    sampler = getattr(trace.get_tracer_provider(), "sampler", None)
    return not (isinstance(sampler, OfChanges) or sampler is ALWAYS_OFF)


def unrecorded(context: Context) -> Context:
    """`context` with a span of its own that is not recorded: its id is new, as rows of one write share theirs."""
    above = trace.get_current_span(context).get_span_context()
    own = SpanContext(above.trace_id, _ids.generate_span_id(), False, above.trace_flags, above.trace_state)
    return trace.set_span_in_context(NonRecordingSpan(own), context)
