"""How each change came to each node, out of the reports: kept for a while, and laid beside the log's times. Pure.

All times are of the portal's own clock. A node says only durations: how long ago it received an item, and how long it
took to decide and to apply it. So a node whose clock is wrong is drawn where it belongs.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kakuremichi.wire.requests import Report, TimedReport
from kakuremichi_portal.propagation_shapes import Stage

MOST_ARRIVALS = 200_000  # about 30 MB; a change of a shared feed has one of each reader

Position = tuple[str, str, int]  # log_id, feed, feed_seq


@dataclass(frozen=True, slots=True)
class Arrival:
    """One item at one node, in Unix seconds. `received_at` is 0 if the node did not say when (an older release)."""

    heard_at: float
    received_at: float
    decided_s: float
    applied_s: float

    @property
    def applied_at(self) -> float:
        return self.received_at + self.applied_s if self.received_at else self.heard_at


class Arrivals:
    """The newest arrivals of all feeds; the oldest positions are forgotten first."""

    def __init__(self, most: int = MOST_ARRIVALS) -> None:
        self._most, self._count = most, 0
        self._kept: OrderedDict[Position, dict[str, Arrival]] = OrderedDict()

    def hear(self, report: Report, at: float) -> None:
        """`at`: when the report came, in Unix seconds."""
        logs = {cursor.feed: cursor.log_id for cursor in report.cursors}
        ages = report.ages_us if isinstance(report, TimedReport) else ()
        for number, timing in enumerate(report.timings):
            if timing.feed not in logs:
                continue
            received_at = at - ages[number] / 1e6 if number < len(ages) else 0.0
            arrival = Arrival(at, received_at, timing.decided_us / 1e6, timing.applied_us / 1e6)
            self._keep((logs[timing.feed], timing.feed, timing.feed_seq), report.node_id, arrival)

    def _keep(self, position: Position, node: str, arrival: Arrival) -> None:
        nodes = self._kept.setdefault(position, {})
        if node in nodes:
            return  # said again: an answer was lost. The first time is when it was so
        nodes[node] = arrival
        self._count += 1
        while self._count > self._most:
            _, gone = self._kept.popitem(last=False)
            self._count -= len(gone)

    def of(self, position: Position, node: str) -> Arrival | None:
        return self._kept.get(position, {}).get(node)

    def at(self, position: Position) -> Iterable[tuple[str, Arrival]]:
        return self._kept.get(position, {}).items()

    def __len__(self) -> int:
        return self._count


def stages(arrival: Arrival, written_at: float) -> tuple[Stage, ...]:
    """deliver, decide, apply, report: one ends where the next begins. Only `report` if nothing else is known."""
    heard = _ms(arrival.heard_at, written_at)
    if not arrival.received_at:
        return (Stage(name="report", start_ms=0.0, end_ms=heard),)
    received = _ms(arrival.received_at, written_at)
    decided = _ms(arrival.received_at + arrival.decided_s, written_at)
    applied = _ms(arrival.applied_at, written_at)
    return (
        Stage(name="deliver", start_ms=0.0, end_ms=received),
        Stage(name="decide", start_ms=received, end_ms=decided),
        Stage(name="apply", start_ms=decided, end_ms=applied),
        Stage(name="report", start_ms=applied, end_ms=max(applied, heard)),
    )


def _ms(moment: float, written_at: float) -> float:
    # The database's clock and the portal's may differ by a little, where they are on two machines.
    return round(max(0.0, moment - written_at) * 1000, 2)


def percentile(samples: Sequence[float], percent: float) -> float | None:
    """The smallest sample that at least `percent` of all do not exceed; None of none."""
    if not samples:
        return None
    ordered = sorted(samples)
    return ordered[max(0, int(-(-len(ordered) * percent // 100)) - 1)]
