"""The processes' trace files: what the steps of a change took, from the request to the last gateway's report."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.harness import percentile

SPANS_S = 0.5  # processes write their spans five times a second


class Span(msgspec.Struct, frozen=True):
    """One line of a trace file; times in ns since 1970, on one machine's clock for all processes."""

    name: str
    trace_id: str
    start_ns: int
    end_ns: int
    process: str = ""  # "registry", "portal"; of a node its name

    @property
    def ms(self) -> float:
        return (self.end_ns - self.start_ns) / 1e6


@dataclass(frozen=True, slots=True)
class Trace:
    """All spans of one change."""

    spans: tuple[Span, ...]

    def of(self, process: str, name: str) -> Span | None:
        """The first one of `process` whose name begins with `name`."""
        found = [span for span in self.spans if span.process == process and span.name.startswith(name)]
        return min(found, key=lambda span: span.start_ns, default=None)


def read_traces(directory: Path) -> dict[str, Trace]:
    """By trace id, from every trace file in a fleet's folder."""
    spans: defaultdict[str, list[Span]] = defaultdict(list)
    for path in (*directory.glob("control/trace/*.trace"), *directory.glob("nodes/*/*.trace")):
        process = path.parent.name if path.parent.parent.name == "nodes" else path.stem
        for line in path.read_bytes().splitlines():
            span = msgspec.structs.replace(msgspec.json.decode(line, type=Span), process=process)
            spans[span.trace_id].append(span)
    return {trace_id: Trace(tuple(found)) for trace_id, found in spans.items()}


def steps_of(trace: Trace, applied_ms: Mapping[str, float]) -> dict[str, float]:
    """Step → ms, in order. `applied_ms` is per gateway what the API said; of gateways the slowest counts."""
    request = next((span for span in trace.spans if span.process == "portal" and " /api/" in span.name), None)
    command = trace.of("registry", "process cp.registry")
    transaction = trace.of("registry", "registry transaction")
    stored = trace.of("registry", "store feed.pool")
    if request is None or command is None or transaction is None or stored is None:
        return {}
    steps = {
        "portal → registry": _between(request.start_ns, command.start_ns),
        "registry decides": _between(command.start_ns, transaction.start_ns),
        "registry transaction": transaction.ms,
        "relay: commit → published": _between(transaction.end_ns, stored.start_ns),
    }
    by_gateway = [_gateway_steps(trace, name, request, stored, ms) for name, ms in applied_ms.items()]
    for step in dict.fromkeys(step for each in by_gateway for step in each):
        steps[step] = max(each.get(step, 0.0) for each in by_gateway)
    return steps | {"all": max(applied_ms.values())}


def _gateway_steps(trace: Trace, name: str, request: Span, stored: Span, ms: float) -> dict[str, float]:
    received, applied = trace.of(name, "process feed.pool"), trace.of(name, "apply")
    if received is None or applied is None:
        return {}
    steps = {"bus: published → received": _between(stored.start_ns, received.start_ns)}
    for section in ("nftables", "haproxy"):
        span = trace.of(name, section)
        if span is not None:
            steps[f"gateway: {section}"] = span.ms
    steps["gateway: received → applied"] = _between(received.start_ns, applied.end_ns)
    steps["report: applied → heard"] = ms - _between(request.start_ns, applied.end_ns)
    return steps


def rows_of(samples: Iterable[Mapping[str, float]]) -> list[tuple[str, ...]]:
    """A row for each step: its name, then p50, p90, p99 and the largest."""
    by_step: defaultdict[str, list[float]] = defaultdict(list)
    for sample in samples:
        for step, ms in sample.items():
            by_step[step].append(ms)
    return [
        (step, *(f"{percentile(ms, percent):.2f}" for percent in (50, 90, 99, 100))) for step, ms in by_step.items()
    ]


def _between(start_ns: int, end_ns: int) -> float:
    return (end_ns - start_ns) / 1e6
