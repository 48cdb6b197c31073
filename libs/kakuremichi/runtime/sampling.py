"""Which spans are worth recording where no collector asked for all of them: those of changes.

A trace of one change is some sixty spans in six processes. Of a flood of changes only some are traced, so that looking
on never costs a tenth of the work.
"""

import time
from collections.abc import Callable, Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_METHOD = "http.request.method"
_DESTINATION = "messaging.destination.template"
_BEGUN_BY_NODES = "req.keyring.announce.*"


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


def of_changes() -> Sampler:
    """What others have decided for a trace is kept to."""
    return ParentBased(Beginnings())
