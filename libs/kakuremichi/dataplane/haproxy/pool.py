"""Which numbered backend belongs to which service. No I/O."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kakuremichi.dataplane.haproxy.naming import STREAM_FIRST
from kakuremichi.model.ids import ServiceId


class PoolExhaustedError(Exception):
    """Every backend has an owner: the pool must grow, which takes a reload."""


class Pool:
    """Backends `first` to `first + size - 1`, declared empty beforehand because HAProxy 2.6 cannot add any while it
    runs.
    """

    def __init__(self, size: int, owned: Mapping[ServiceId, int] | None = None, *, first: int = 0) -> None:
        """`owned`: assignments read back from the route maps, so that a restart moves nobody."""
        self._first = first
        self._numbers: dict[ServiceId, int] = {}
        self._owners: dict[int, ServiceId] = {}
        for service, number in (owned or {}).items():
            if number not in self._owners:  # of two owners in a damaged map the first keeps it
                self._own(service, number)
        self._size = grown(size, max(self._owners, default=first - 1) + 1 - first)
        self._free = deque(number for number in self.numbers() if number not in self._owners)

    @property
    def size(self) -> int:
        return self._size

    def __len__(self) -> int:
        return len(self._numbers)

    def numbers(self) -> range:
        return range(self._first, self._first + self._size)

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

    def release(self, number: int) -> None:
        """Give it back. It is reused last: its counters and late requests are the old owner's."""
        if (service := self._owners.pop(number, None)) is not None:
            del self._numbers[service]
            self._free.append(number)

    def grow(self, needed: int) -> None:
        """Double until `needed` numbers more can be assigned."""
        before, self._size = self._size, grown(self._size, len(self._numbers) + needed)
        self._free.extend(range(self._first + before, self._first + self._size))

    def _own(self, service: ServiceId, number: int) -> None:
        self._numbers[service] = number
        self._owners[number] = service


@dataclass(slots=True)
class Pools:
    """One for each mode of HAProxy: a backend of one cannot serve the other."""

    http: Pool
    tcp: Pool

    @classmethod
    def of(cls, http_size: int, tcp_size: int, owned: Iterable[tuple[ServiceId, int]] = ()) -> "Pools":
        held = list(owned)
        return cls(
            Pool(http_size, {service: number for service, number in held if number < STREAM_FIRST}),
            Pool(tcp_size, {service: number for service, number in held if number >= STREAM_FIRST}, first=STREAM_FIRST),
        )

    @property
    def sizes(self) -> tuple[int, int]:
        return self.http.size, self.tcp.size

    def holding(self, number: int) -> Pool:
        return self.tcp if number >= STREAM_FIRST else self.http

    def owner(self, number: int) -> ServiceId | None:
        return self.holding(number).owner(number)

    def owners(self) -> dict[int, ServiceId]:
        return {**self.http.owners(), **self.tcp.owners()}

    def numbers(self) -> Iterable[int]:
        return (*self.http.numbers(), *self.tcp.numbers())

    def release(self, number: int) -> None:
        self.holding(number).release(number)


def grown(size: int, needed: int) -> int:
    """`size` doubled as often as it takes to hold `needed`."""
    if size < needed:
        size = max(size, 1)
    while size < needed:
        size *= 2
    return size
