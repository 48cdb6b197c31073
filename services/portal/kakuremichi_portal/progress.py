"""How far the nodes have come, as their reports say it. Decides; hears and waits elsewhere."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from kakuremichi.wire.commands import FeedPosition
from kakuremichi.wire.requests import ItemError, Report

LIVE_FOR_S = 90.0
KEPT_MOVES = 64  # of a cursor: a report may be here before the answer to the command that it reports on


@dataclass(frozen=True, slots=True)
class Concern:
    """What a write asks of the nodes: `positions` in the log `log_id`, and the record keys that it touched."""

    log_id: str
    positions: tuple[FeedPosition, ...]
    names: frozenset[str] = frozenset()  # services whose records were written

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(sorted({node for position in self.positions for node in position.nodes}))

    @property
    def gateways(self) -> tuple[str, ...]:
        pools = (position for position in self.positions if position.feed.startswith("feed.pool."))
        return tuple(sorted({node for position in pools for node in position.nodes}))

    def touches(self, error: ItemError) -> bool:
        """Whether a node's error is about what was written: `route/<service>`, `target/<service>-<number>`."""
        kind, _, key = error.key.partition("/")
        return (kind == "route" and key in self.names) or (kind == "target" and key.rpartition("-")[0] in self.names)


@dataclass(frozen=True, slots=True)
class Standing:
    """Of a concern, at one moment. `applied` has the arrival of the report that said so."""

    applied: tuple[tuple[str, float], ...]
    pending: tuple[str, ...]
    offline: tuple[str, ...]
    errors: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Cursor:
    log_id: str
    moves: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=KEPT_MOVES))

    def move(self, log_id: str, feed_seq: int, at: float) -> None:
        if log_id != self.log_id or (self.moves and feed_seq < self.moves[-1][0]):
            self.log_id = log_id
            self.moves.clear()
        if not self.moves or feed_seq > self.moves[-1][0]:
            self.moves.append((feed_seq, at))

    def reached(self, log_id: str, feed_seq: int) -> float | None:
        if log_id != self.log_id:
            return None
        return next((at for seq, at in self.moves if seq >= feed_seq), None)


@dataclass(slots=True)
class _Node:
    heard_at: float
    cursors: dict[str, _Cursor] = field(default_factory=dict)
    errors: tuple[ItemError, ...] = ()


class Progress:
    """Newest cursors per node, with the portal's monotonic time of each of their recent moves, in seconds."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._presumed: dict[str, float] = {}

    def hear(self, report: Report, at: float) -> None:
        node = self._nodes.setdefault(report.node_id, _Node(at))
        node.heard_at, node.errors = at, report.errors
        for cursor in report.cursors:
            known = node.cursors.setdefault(cursor.feed, _Cursor(cursor.log_id))
            known.move(cursor.log_id, cursor.feed_seq, at)
        # What a node reads no more is not news about it.
        for feed in node.cursors.keys() - {cursor.feed for cursor in report.cursors}:
            del node.cursors[feed]

    def presume_live(self, nodes: Iterable[str], until: float) -> None:
        """Take `nodes` for live until then: somebody else heard them before this portal could."""
        self._presumed = dict.fromkeys(nodes, until)

    def cursors(self, log_id: str) -> dict[tuple[str, str], int]:
        """(node, feed) → how far it has applied the feed, of this log."""
        return {
            (name, feed): cursor.moves[-1][0]
            for name, node in self._nodes.items()
            for feed, cursor in node.cursors.items()
            if cursor.log_id == log_id and cursor.moves
        }

    def heard(self, node: str) -> bool:
        return node in self._nodes

    def forget_silent(self, before: float) -> None:
        """Drop nodes not heard since then, so that removed ones do not stay in memory."""
        for name in [name for name, node in self._nodes.items() if node.heard_at < before]:
            del self._nodes[name]

    def live(self, now: float) -> tuple[str, ...]:
        return tuple(sorted(node for node in self._nodes if self._is_live(node, now)))

    def standing(self, concern: Concern, now: float) -> Standing:
        applied, pending, offline = [], [], []
        errors: list[tuple[str, str]] = []
        for name in concern.nodes:
            troubles = self._troubles(name, concern)
            arrival = self._arrival(name, concern)
            if arrival is not None and not troubles:
                applied.append((name, arrival))
            elif self._is_live(name, now):
                pending.append(name)
                errors += [(name, trouble) for trouble in troubles]
            else:
                offline.append(name)
        return Standing(tuple(applied), tuple(pending), tuple(offline), tuple(errors))

    def _is_live(self, name: str, now: float) -> bool:
        node = self._nodes.get(name)
        if node is not None and now - node.heard_at <= LIVE_FOR_S:
            return True
        return self._presumed.get(name, now) > now

    def _arrival(self, name: str, concern: Concern) -> float | None:
        """When the last of the concern's feeds that this node reads had come far enough; None if one has not."""
        node = self._nodes.get(name)
        if node is None:
            return None
        arrivals = []
        for position in concern.positions:
            if name in position.nodes:
                cursor = node.cursors.get(position.feed)
                arrivals.append(cursor.reached(concern.log_id, position.feed_seq) if cursor else None)
        known = [arrival for arrival in arrivals if arrival is not None]
        return max(known) if len(known) == len(arrivals) else None

    def _troubles(self, name: str, concern: Concern) -> list[str]:
        node = self._nodes.get(name)
        return [error.message for error in node.errors if concern.touches(error)] if node else []
