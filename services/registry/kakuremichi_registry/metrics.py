"""The registry's metrics: its relay, the reports of nodes, refusals."""

from collections.abc import Iterable

from kakuremichi.runtime.metrics import EVERYWHERE, Family, Sample
from kakuremichi_registry.registry import Registry

LEADS = Family("kakuremichi_registry_leads", "gauge", "1 in the replica that relays and cleans up.")
SENT = Family("kakuremichi_relay_sent_position", "gauge", "Row of the log that was sent to who listens.", ("stream",))
STORED = Family("kakuremichi_relay_stored_position", "gauge", "Row of the log that is in the stream.", ("stream",))
SEEKS = Family("kakuremichi_relay_seeks_total", "counter", "How often the relay went back to its place.", ("stream",))
REPORTS = Family(
    "kakuremichi_registry_reports_total", "counter", "Reports of nodes by what became of them.", ("result",)
)
REFUSALS_LOST = Family("kakuremichi_registry_refusals_lost_total", "counter", "Refusals that the access log lacks.")
FAMILIES = (*EVERYWHERE, LEADS, SENT, STORED, SEEKS, REPORTS, REFUSALS_LOST)


def samples(registry: Registry) -> Iterable[Sample]:
    yield LEADS, (), float(registry.leadership.leading.is_set())
    for stream, relay in (("FEED", registry.feed_relay), ("AUDIT", registry.audit_relay)):
        yield SENT, (stream,), relay.live
        yield STORED, (stream,), relay.stored
        yield SEEKS, (stream,), relay.seeks
    for result, count in registry.reports.counts.items():
        yield REPORTS, (result,), count
    yield REFUSALS_LOST, (), registry.access.dropped
