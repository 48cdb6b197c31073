"""How often one address may try a secret: a bucket of attempts that fills again with time."""

import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from kakuremichi_portal.problems import ProblemError

MAX_SOURCES = 4096


class AttemptLimit:
    """`burst` attempts at once per source, then one per `every_s` seconds. The least recent source is forgotten.

    A source is an address, or whatever else `of` calls it.
    """

    def __init__(
        self, *, burst: int, every_s: float, clock: Callable[[], float] = time.monotonic, of: str = "from this address"
    ) -> None:
        self._burst, self._every_s, self._clock, self._of = burst, every_s, clock, of
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def count(self, source: str) -> None:
        """Take one attempt; :class:`ProblemError` 429 with Retry-After if none is left."""
        key, left = source_key(source), self._level(source)
        self._left.pop(key, None)
        self._left[key] = (left - 1 if left >= 1 else left, self._clock())
        while len(self._left) > MAX_SOURCES:
            self._left.popitem(last=False)
        self._refuse(left)

    def look(self, source: str) -> None:
        """The same, but none is taken: for what counts only if it fails."""
        self._refuse(self._level(source))

    def _level(self, source: str) -> float:
        now = self._clock()
        left, since = self._left.get(source_key(source), (float(self._burst), now))
        return min(float(self._burst), left + (now - since) / self._every_s)

    def _refuse(self, left: float) -> None:
        if left < 1:
            wait = max(1, round((1 - left) * self._every_s + 0.5))
            detail = f"too many attempts {self._of}; try again in {wait} s"
            raise ProblemError(429, "too-many-attempts", detail, headers={"Retry-After": str(wait)})


def source_key(source: str) -> str:
    """An IPv6 host has a whole /64 to change addresses in, so that is what is counted."""
    try:
        address = ip_address(source.partition("%")[0])
    except ValueError:
        return source
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(IPv6Address(int(address) >> 64 << 64))
    return str(address)
