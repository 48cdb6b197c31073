"""Visitors who take the gateways in turn, as a name with several addresses makes them do."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from support.loads import Visitors


class Rotation:
    """Whose turn it is; gateways may join and leave while visitors come. `answered` counts good visits."""

    def __init__(self, visit: Callable[[str], object], gateways: Iterable[str]) -> None:
        self.answered: Counter[str] = Counter()
        self._visit, self._gateways = visit, list(gateways)
        self._turn, self._busy = 0, Counter[str]()
        self._lock = threading.Lock()

    def visit_next(self) -> None:
        """One visit; raises what it raises."""
        with self._lock:
            self._turn += 1
            gateway = self._gateways[self._turn % len(self._gateways)]
            self._busy[gateway] += 1
        try:
            self._visit(gateway)
            with self._lock:
                self.answered[gateway] += 1
        finally:
            with self._lock:
                self._busy[gateway] -= 1

    def join(self, gateway: str) -> None:
        with self._lock:
            self._gateways.append(gateway)

    def leave(self, gateway: str) -> None:
        """No new visitor is sent there; those who are there stay until they have their answer."""
        with self._lock:
            self._gateways.remove(gateway)

    def idle(self, gateway: str) -> bool:
        with self._lock:
            return not self._busy[gateway]

    def more(self, count: int) -> Callable[[], bool]:
        """Whether each gateway of now has answered `count` visitors more than now."""
        with self._lock:
            goal = {gateway: self.answered[gateway] + count for gateway in self._gateways}
        return lambda: all(self.answered[gateway] >= wanted for gateway, wanted in goal.items())


@contextmanager
def crowd(rotation: Rotation, size: int) -> Iterator[list[str]]:
    """`size` visitors at a time for as long as the block lasts; the list has what went wrong, filled at its end."""
    failures: list[str] = []
    with ExitStack() as stack:
        visitors = [Visitors({"round robin": rotation.visit_next}, pause_s=0.02) for _ in range(size)]
        for each in visitors:
            stack.enter_context(each)
        yield failures
    failures += [failure for each in visitors for failure in each.failures]
