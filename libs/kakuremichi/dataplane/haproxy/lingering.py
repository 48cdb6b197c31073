"""Servers that HAProxy will not delete while they have connections: when to ask again. No I/O, no clock."""

from kakuremichi.dataplane.haproxy.diff import RemoveServer

FIRST_S = 0.25
LONGEST_S = 10.0
MAX_TRIES = 60  # about nine minutes; after that the next full comparison takes it up again


class Lingering:
    """They are in maintenance, so waiting harms nobody: a WebSocket may keep one for hours."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[int, str], tuple[RemoveServer, int, float]] = {}

    def steps(self) -> tuple[RemoveServer, ...]:
        return tuple(step for step, _, _ in self._waiting.values())

    def numbers(self) -> set[int]:
        return {number for number, _ in self._waiting}

    def refused(self, step: RemoveServer, now: float) -> None:
        """`now` in seconds of the clock that `due` is asked with."""
        _, tries, _ = self._waiting.get((step.number, step.name), (step, 0, now))
        pause = min(FIRST_S * 2**tries, LONGEST_S)
        self._waiting[step.number, step.name] = (step, tries + 1, now + pause)

    def gone(self, step: RemoveServer) -> None:
        self._waiting.pop((step.number, step.name), None)

    def due(self, now: float) -> tuple[RemoveServer, ...]:
        return tuple(step for step, tries, at in self._waiting.values() if at <= now and tries < MAX_TRIES)

    def clear(self) -> None:
        """Before a full comparison: what is still there will be refused again."""
        self._waiting.clear()
