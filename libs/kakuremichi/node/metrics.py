"""What gateways and agents have to tell: how far they follow their feeds, and what is wrong."""

from collections.abc import Iterable
from dataclasses import dataclass

from kakuremichi.bus.metrics import bus_samples
from kakuremichi.bus.nats import NatsBus
from kakuremichi.bus.span_mail import SpanMail
from kakuremichi.node.reporting import Reporter
from kakuremichi.node.witnessing import LOG_TOPIC
from kakuremichi.reconcile.follower import Follower
from kakuremichi.runtime.metrics import EVERYWHERE, Collect, Family, Loop, Sample, metrics_loop

FEED_SEQ = Family("kakuremichi_node_feed_seq", "gauge", "Item of the feed that was accepted last.", ("feed",))
APPLIED_SEQ = Family("kakuremichi_node_applied_seq", "gauge", "Item of the feed that was applied last.", ("feed",))
RECORDS = Family("kakuremichi_node_records", "gauge", "Records of the feed that are held.", ("feed",))
NOISE = Family("kakuremichi_node_noise_total", "counter", "Messages that were not signed as they must be.", ("feed",))
GAPS = Family("kakuremichi_node_gaps_total", "counter", "Lost items of the feed that were noticed.", ("feed",))
SNAPSHOTS = Family("kakuremichi_node_snapshots_total", "counter", "Snapshots that were taken.", ("feed",))
ROLLBACKS = Family("kakuremichi_node_rollbacks_total", "counter", "Heads that said less than was known.", ("feed",))
ERRORS = Family("kakuremichi_node_errors", "gauge", "Records that could not be applied.")
WARNINGS = Family("kakuremichi_node_warnings", "gauge", "Warnings in the node's report.")
LOG_FORK = Family("kakuremichi_node_log_fork", "gauge", "1 if the log contradicts what the gateway witnessed of it.")
FAMILIES = (
    *EVERYWHERE, FEED_SEQ, APPLIED_SEQ, RECORDS, NOISE, GAPS, SNAPSHOTS, ROLLBACKS, ERRORS, WARNINGS, LOG_FORK,
)  # fmt: skip


async def nothing_more() -> Iterable[Sample]:
    return ()


@dataclass(frozen=True, slots=True)
class NodeMetrics:
    """`listen` is where to tell them, "" is nowhere; `more` is what only this role has."""

    listen: str
    more: Collect = nothing_more

    def loops(self, bus: NatsBus, mail: SpanMail, followers: Iterable[Follower], reporter: Reporter) -> dict[str, Loop]:
        async def collect() -> Iterable[Sample]:
            return (*bus_samples(bus, mail), *node_samples(followers, reporter), *await self.more())

        return metrics_loop(self.listen, collect)


def node_samples(followers: Iterable[Follower], reporter: Reporter) -> Iterable[Sample]:
    applied = reporter.applied
    for follower in followers:
        feed, cursor, counted = (follower.feed,), follower.holding.cursor, follower.counters
        yield FEED_SEQ, feed, cursor.feed_seq if cursor else 0
        yield APPLIED_SEQ, feed, applied.get(follower.feed, 0)
        yield RECORDS, feed, len(follower.holding.live)
        yield NOISE, feed, counted.noise
        yield GAPS, feed, counted.gaps
        yield SNAPSHOTS, feed, counted.snapshots
        yield ROLLBACKS, feed, counted.rollbacks
    yield ERRORS, (), reporter.errors
    yield WARNINGS, (), len(reporter.warnings)
    yield LOG_FORK, (), float(LOG_TOPIC in reporter.warnings)
