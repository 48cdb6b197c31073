"""What an auditor is told: where something is not as it was written, as exactly as it can be said. Pure."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

from kakuremichi.audit.chain import LogRow, row_hash

TEXTS = ("topic", "actor", "at", "fact")
MOST_REPAIRS = 4  # each tries every byte at every place: some tenths of a second


@dataclass(frozen=True, slots=True)
class Finding:
    """`line` 0 is the file as a whole, `seq` 0 no row; `field` is "" where it cannot be told."""

    line: int
    seq: int
    field: str
    sentence: str

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        row = f"log row {self.seq}: " if self.seq else ""
        return f"{place}{row}{self.sentence}"


def changed_byte(row: LogRow) -> tuple[str, int] | None:
    """(field, place) of the one byte that has to be another one for the row to have its hash; None if more differs.

    It is found by trying, so only what was changed by one byte, as a flipped bit does, is found.
    """
    begun = hashlib.sha256(b"\0" + row.prev + row.seq.to_bytes(8, "big"))
    raws = [getattr(row, name).encode() for name in TEXTS]
    for number, name in enumerate(TEXTS):
        head = begun.copy()
        for raw in raws[:number]:
            head.update(_prefixed(raw))
        tail = b"".join(_prefixed(raw) for raw in raws[number + 1 :])
        place = _place(head, raws[number], tail, row.hash)
        if place is not None:
            return name, place
    return None


def _place(head: "hashlib._Hash", raw: bytes, tail: bytes, wanted: bytes) -> int | None:
    for place in range(len(raw)):
        before = head.copy()
        before.update(len(raw).to_bytes(4, "big") + raw[:place])
        after = raw[place + 1 :] + tail
        for byte in range(256):
            tried = before.copy()
            tried.update(bytes([byte]) + after)
            if tried.digest() == wanted:
                return place
    return None


def _prefixed(raw: bytes) -> bytes:
    return len(raw).to_bytes(4, "big") + raw


def compare(
    ours: Iterable[LogRow], theirs: Iterable[LogRow], *, names: tuple[str, str], prefix_is_fine: bool = False
) -> Iterator[Finding]:
    """How two readings of one log differ, row by row, both in order; nothing if they say the same.

    `names` say which is which; with `prefix_is_fine` the second may have come less far.
    """
    for ours_row, theirs_row in zip_longest(ours, theirs):
        if theirs_row is None:
            if not prefix_is_fine:
                yield Finding(0, ours_row.seq, "", f"is in {names[0]}, and {names[1]} ends before it")
            return
        if ours_row is None:
            yield Finding(0, theirs_row.seq, "", f"is in {names[1]}, and {names[0]} ends before it")
            return
        if ours_row.seq != theirs_row.seq:
            yield Finding(0, min(ours_row.seq, theirs_row.seq), "seq", _missing(ours_row.seq, theirs_row.seq, names))
            return
        if ours_row != theirs_row:
            different = [name for name in LogRow._fields if getattr(ours_row, name) != getattr(theirs_row, name)]
            whole = [name for name, row in zip(names, (ours_row, theirs_row), strict=True) if row_hash(row) == row.hash]
            said = f"{' and '.join(different)} differ between {names[0]} and {names[1]}"
            hint = f"; the row's own hash fits in {' and '.join(whole)}" if whole else "; its hash fits in neither"
            yield Finding(0, ours_row.seq, different[0], said + hint)


def _missing(ours: int, theirs: int, names: tuple[str, str]) -> str:
    lacking, first = (names[1], ours) if ours < theirs else (names[0], theirs)
    return f"is missing in {lacking}, which goes on with {max(ours, theirs)} after {first - 1}"
