"""How people write a moment: a row of the log by its number, or a time. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from kakuremichi.audit.chain import LogRow
from kakuremichi.audit.fold import fold
from kakuremichi.audit.state import State, later


class MomentError(ValueError):
    """The text is neither, or the log does not reach it; a sentence."""


@dataclass(frozen=True, slots=True)
class Moment:
    """`seq` -1: not said; `at` "": that of the row. With neither it is the end of the log."""

    seq: int = -1
    at: str = ""


def parse_moment(text: str) -> Moment:
    """`1234`, `2026-01-02T14:05Z`, `2026-01-02T14:05:00+09:00`, or `now`."""
    if text in ("", "now"):
        return Moment()
    if text.isascii() and text.isdigit() and len(text) < 19:
        return Moment(seq=int(text))
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise MomentError(f"moment {text[:64]!r}: write a row's number, or a time as 2026-01-02T14:05Z") from error
    if at.tzinfo is None:
        raise MomentError(f"moment {text}: has no zone; write {text}Z for UTC, or its offset")
    return Moment(at=at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


def refuse_earlier(moment: Moment, base: State) -> None:
    """:class:`MomentError` if the moment lies before `base`, where an export begins."""
    if 0 <= moment.seq < base.seq or (moment.at and later(base.at, moment.at)):
        said = f"log row {moment.seq}" if moment.seq >= 0 else moment.at
        raise MomentError(f"{said}: the rows up to {base.seq} of {base.at} are in an earlier export; ask that one")


def state_at(rows: Iterable[LogRow], moment: Moment, base: State) -> State:
    """Fold as many of the rows as belong to the moment into `base`, the state before the first of them."""
    refuse_earlier(moment, base)
    for row in rows:
        if (0 <= moment.seq < row.seq) or (moment.at and later(row.at, moment.at)):
            break
        fold(base, (row,))
    if moment.seq > base.seq:
        raise MomentError(f"log row {moment.seq}: the log ends with row {base.seq}")
    return base
