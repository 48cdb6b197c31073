"""The portal's Prometheus metrics. Labels are route templates, never names or addresses."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest

from kakuremichi.runtime.metrics import CONTENT_TYPE, EVERYWHERE, Family, Sample, Samples

__all__ = ["CONTENT_TYPE", "FAMILIES", "Metrics"]

DURATION = Family(
    "http_server_request_duration_seconds", "histogram", "Time from a request's arrival to its answer.",
    ("http_request_method", "http_route", "http_response_status_code"),
)  # fmt: skip
DENIED = Family(
    "kakuremichi_portal_denied_total", "counter", "Requests refused for who sent them (401, 403, 429).",
    ("http_response_status_code",),
)  # fmt: skip
HEARD = Family("kakuremichi_portal_nodes_heard", "gauge", "Nodes that reported within 90 s.")
REFUSED = Family("kakuremichi_portal_reports_refused", "gauge", "Reports that could not be read or named another node.")
VIEWS = Family("kakuremichi_portal_live_views", "gauge", "Open live views.")
CUT = Family("kakuremichi_portal_live_cut_total", "counter", "Live views that were cut off because they were too slow.")
TRACES = Family("kakuremichi_portal_traces", "gauge", "Traces that are kept.")
SPANS = Family("kakuremichi_portal_spans", "gauge", "Spans that are kept.")
SPANS_REFUSED = Family("kakuremichi_portal_spans_refused_total", "counter", "Messages of spans that could not be read.")
ARRIVALS = Family("kakuremichi_portal_arrivals", "gauge", "Times of changes at nodes that are kept.")
FAMILIES = (
    DURATION, DENIED, HEARD, REFUSED, VIEWS, CUT, TRACES, SPANS, SPANS_REFUSED, ARRIVALS, *EVERYWHERE,
)  # fmt: skip


class Metrics:
    """`read` gives what is looked up when it is asked for; requests are counted as they are answered."""

    def __init__(self, read: Callable[[], Iterable[Sample]]) -> None:
        self._read = [read]
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._duration = Histogram(DURATION.name, DURATION.help, DURATION.labels, registry=self._registry)
        self._denied = Counter(DENIED.name, DENIED.help, DENIED.labels, registry=self._registry)
        self._registry.register(Samples(lambda: [sample for each in self._read for sample in each()]))

    def add(self, read: Callable[[], Iterable[Sample]]) -> None:
        """Of a part that is there only when the process runs, such as the bus."""
        self._read.append(read)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        self._duration.labels(method, route, str(status)).observe(seconds)
        if status in (401, 403, 429):
            self._denied.labels(str(status)).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)
