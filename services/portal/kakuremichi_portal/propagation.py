"""How each change came to each node, out of the reports: kept for a while, and laid beside the log's times. Pure.

All times are of the portal's own clock, or of the registry's for what came before this portal listened. A node says
only durations: how long ago it received an item, and how long it took to decide and to apply it. So a node whose clock
is wrong is drawn where it belongs.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from sys import intern

from kakuremichi.wire.arrivals import ArrivalBatch
from kakuremichi.wire.requests import Report, TimedReport
from kakuremichi_portal.propagation_shapes import Stage

MOST_ARRIVALS = 200_000  # about 60 MB; a change of a shared feed has one of each reader

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


_ByPosition = OrderedDict[Position, dict[str, Arrival]]


class Arrivals:
    """The newest arrivals of all feeds; the oldest positions are forgotten first.

    What others heard is learned later than what this portal hears, and is older.
    """

    def __init__(self, most: int = MOST_ARRIVALS) -> None:
        self._most, self._count = most, 0
        self._heard: _ByPosition = OrderedDict()
        self._learned: _ByPosition = OrderedDict()

    def hear(self, report: Report, at: float) -> None:
        """`at`: when the report came, in Unix seconds."""
        logs = {cursor.feed: cursor.log_id for cursor in report.cursors}
        ages = report.ages_us if isinstance(report, TimedReport) else ()
        for number, timing in enumerate(report.timings):
            if timing.feed not in logs:
                continue
            received_at = at - ages[number] / 1e6 if number < len(ages) else 0.0
            arrival = Arrival(at, received_at, timing.decided_us / 1e6, timing.applied_us / 1e6)
            self._keep(self._heard, (logs[timing.feed], timing.feed, timing.feed_seq), report.node_id, arrival)

    def learn(self, batch: ArrivalBatch) -> None:
        """What the registry has heard."""
        for item in batch.items:
            for said in item.nodes:
                received_at = 0.0 if said.age_us is None else (said.heard_us - said.age_us) / 1e6
                arrival = Arrival(said.heard_us / 1e6, received_at, said.decided_us / 1e6, said.applied_us / 1e6)
                self._keep(self._learned, (item.log_id, item.feed, item.feed_seq), said.node_id, arrival)

    def _keep(self, kept: _ByPosition, position: Position, node: str, arrival: Arrival) -> None:
        if self.of(position, node) is not None:
            return  # said again: an answer was lost. The first time is when it was so
        log_id, feed, feed_seq = position
        # The same few names again and again, each time as a string of its own: half of the memory.
        kept.setdefault((intern(log_id), intern(feed), feed_seq), {})[intern(node)] = arrival
        self._count += 1
        while self._count > self._most:
            _, gone = (self._learned or self._heard).popitem(last=False)
            self._count -= len(gone)

    def of(self, position: Position, node: str) -> Arrival | None:
        return self._heard.get(position, {}).get(node) or self._learned.get(position, {}).get(node)

    def at(self, position: Position) -> Iterable[tuple[str, Arrival]]:
        return (*self._learned.get(position, {}).items(), *self._heard.get(position, {}).items())

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
