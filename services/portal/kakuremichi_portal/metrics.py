"""The portal's Prometheus metrics. Labels are route templates, never names or addresses."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4"


class Metrics:
    def __init__(self, *, nodes_heard: Callable[[], float], reports_refused: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._duration = Histogram(
            "http_server_request_duration_seconds",
            "Time from a request's arrival to its answer.",
            ("http_request_method", "http_route", "http_response_status_code"),
            registry=self._registry,
        )
        self._denied = Counter(
            "kakuremichi_portal_denied_total",
            "Requests refused for who sent them (401, 403, 429).",
            ("http_response_status_code",),
            registry=self._registry,
        )
        heard = Gauge("kakuremichi_portal_nodes_heard", "Nodes that reported within 90 s.", registry=self._registry)
        heard.set_function(nodes_heard)
        refused = Gauge(
            "kakuremichi_portal_reports_refused", "Reports that could not be read or named another node.",
            registry=self._registry,
        )  # fmt: skip
        refused.set_function(reports_refused)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        self._duration.labels(method, route, str(status)).observe(seconds)
        if status in (401, 403, 429):
            self._denied.labels(str(status)).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)
