"""The last-known-good of one feed on disk: a compacted base and the signed items since.

An applied item is appended at once, so a restarted process never goes back behind what the kernel already
has. Nothing here is trusted when it is read: every item carries its signature and is verified again.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from kakuremichi.wire.codec import WireError, decode, encode
from kakuremichi.wire.signing import Signed

COMPACT_AFTER = 1000  # items in the tail; beyond it the base is written anew
_FRAME = 4


class Base(Struct, frozen=True, array_like=True):
    """A feed at one moment: its signed head and the live items, as they came."""

    head: Signed
    feed_key: Signed
    items: tuple[Signed, ...]


class Journal:
    """Files `<feed>.base`, the generation before it, and `<feed>.tail` in `directory`: a cache, never the truth."""

    def __init__(self, directory: Path, feed: str) -> None:
        self._base = directory / f"{feed}.base"
        self._older = directory / f"{feed}.base.1"
        self._tail_path = directory / f"{feed}.tail"
        self._tail: int | None = None
        self.length = 0
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def append(self, signed: Signed) -> None:
        """One small write, no fsync: losing the last ones to a power cut is what the next snapshot mends."""
        frame = encode(signed)
        if self._tail is None:
            self._tail = os.open(self._tail_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(self._tail, len(frame).to_bytes(_FRAME, "big") + frame)
        self.length += 1

    def rewrite(self, base: Base) -> None:
        """Put a new base in place, keep the one before, begin an empty tail."""
        partial = self._base.with_suffix(".new")
        with open(partial, "wb", opener=_private) as out:  # Path.open has no opener, and the mode matters
            for part in (base.head, base.feed_key, *base.items):
                frame = encode(part)
                out.write(len(frame).to_bytes(_FRAME, "big") + frame)
            out.flush()
            os.fsync(out.fileno())
        if self._base.exists():
            self._base.replace(self._older)
        partial.replace(self._base)
        self.close()
        self._tail_path.unlink(missing_ok=True)
        self.length = 0

    def read(self) -> Iterator[tuple[Base, tuple[Signed, ...]]]:
        """Newest first: what each generation says and the items after it. A damaged one ends where it is damaged."""
        tail = tuple(_frames(self._tail_path))
        for path in (self._base, self._older):
            frames = tuple(_frames(path))
            if len(frames) >= 2:
                yield Base(frames[0], frames[1], frames[2:]), tail

    def close(self) -> None:
        if self._tail is not None:
            os.close(self._tail)
            self._tail = None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _frames(path: Path) -> Iterator[Signed]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    place = 0
    while place + _FRAME <= len(data):
        size = int.from_bytes(data[place : place + _FRAME], "big")
        body = data[place + _FRAME : place + _FRAME + size]
        if len(body) < size:
            return
        try:
            yield decode(body, Signed, name="journal")
        except WireError:
            return
        place += _FRAME + size
