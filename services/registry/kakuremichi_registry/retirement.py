"""Which rows of the log may leave the database: whole partitions, the oldest first, that gateways vouch for. Pure."""

from collections.abc import Sequence
from typing import NamedTuple


class RetireError(Exception):
    """Nothing may be retired, or not this way; a sentence that says why."""


class Partition(NamedTuple):
    name: str
    first: int
    last: int


class Seen(NamedTuple):
    """What the decision looks at. Numbers are sequences of rows, 0 is before the first."""

    partitions: tuple[Partition, ...]  # in their order
    cut: int  # the last row that has left already
    last: int  # the newest row
    relayed: int  # the last row that the stream AUDIT has stored
    covered: int  # rows under the largest checkpoint with witnesses enough


def choose(seen: Seen, *, before: int, witnesses: int) -> tuple[Partition, ...]:
    """The partitions whose rows all come before row `before`, and may go; :class:`RetireError` if there is none."""
    if before - 1 <= seen.cut:
        raise RetireError(f"rows before {before}: have left already, the log begins behind row {seen.cut}")
    oldest = seen.partitions[0]
    if seen.last <= oldest.last:
        raise RetireError(
            f"{_named(oldest)}: is the newest partition, rows are still added to it (the log has come to {seen.last})"
        )
    if oldest.last >= before:
        raise RetireError(
            f"{_named(oldest)}: does not lie before row {before} as a whole; partitions leave whole,"
            f" so the first moment that retires anything is row {oldest.last + 1}"
        )
    wanted = [part for part in seen.partitions if part.last < min(before, seen.last)]
    vouched = [part for part in wanted if part.last <= seen.covered]
    if not vouched:
        gateways = "a gateway" if witnesses == 1 else f"{witnesses} gateways"
        raise RetireError(
            f"{_named(oldest)}: no checkpoint of {oldest.last} rows or more is signed by the registry and cosigned by"
            f" {gateways} (the largest such covers {seen.covered}); gateways ask every minute: see their warnings"
        )
    stored = [part for part in vouched if part.last <= seen.relayed]
    if not stored:
        raise RetireError(
            f"{_named(oldest)}: the stream AUDIT has stored rows up to {seen.relayed} only; wait for NATS"
        )
    return tuple(stored)


def _named(part: Partition) -> str:
    return f"rows {part.first} to {part.last}"


def kept_back(seen: Seen, chosen: Sequence[Partition], *, before: int) -> tuple[Partition, ...]:
    """Partitions that lie before row `before` too and stay, as nobody vouches for them yet."""
    return tuple(part for part in seen.partitions if chosen[-1].last < part.last < min(before, seen.last))
