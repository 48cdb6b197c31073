"""Which numbered backend belongs to which service. No I/O."""

from collections import deque
from collections.abc import Mapping

from kakuremichi.model.ids import ServiceId


class PoolExhaustedError(Exception):
    """Every backend has an owner: the pool must grow, which takes a reload."""


class Pool:
    """Backends p0 to p<size-1>, declared empty beforehand because HAProxy 2.6 cannot add any while it runs."""

    def __init__(self, size: int, owned: Mapping[ServiceId, int] | None = None) -> None:
        """`owned`: assignments read back from a route map, so that a restart moves nobody."""
        self._numbers: dict[ServiceId, int] = {}
        self._owners: dict[int, ServiceId] = {}
        for service, number in (owned or {}).items():
            if number not in self._owners:  # of two owners in a damaged map the first keeps it
                self._own(service, number)
        self._size = grown(size, max(self._owners, default=-1) + 1)
        self._free = deque(number for number in range(self._size) if number not in self._owners)

    @property
    def size(self) -> int:
        return self._size

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, service: ServiceId) -> int | None:
        return self._numbers.get(service)

    def owner(self, number: int) -> ServiceId | None:
        return self._owners.get(number)

    def owners(self) -> Mapping[int, ServiceId]:
        return self._owners

    def assign(self, service: ServiceId) -> int:
        """The service's number, a fresh one if it has none. Raises PoolExhaustedError."""
        if service in self._numbers:
            return self._numbers[service]
        if not self._free:
            raise PoolExhaustedError(f"backend pool: all {self._size} backends are in use")
        self._own(service, self._free.popleft())
        return self._numbers[service]

    def release(self, service: ServiceId) -> None:
        """Give the number back. It is reused last: its counters and late requests are the old owner's."""
        if (number := self._numbers.pop(service, None)) is not None:
            del self._owners[number]
            self._free.append(number)

    def grow(self, needed: int) -> None:
        """Double until `needed` numbers more can be assigned."""
        size = grown(self._size, len(self._numbers) + needed)
        self._free.extend(range(self._size, size))
        self._size = size

    def _own(self, service: ServiceId, number: int) -> None:
        self._numbers[service] = number
        self._owners[number] = service


def grown(size: int, needed: int) -> int:
    """`size` doubled as often as it takes to hold `needed`."""
    while size < needed:
        size *= 2
    return size
