"""The end of the chain while it is read, also where it is not clear which of several rows is the true one. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, field

from kakuremichi.audit.chain import LogRow, row_hash
from kakuremichi.audit.findings import MOST_REPAIRS, Finding, changed_byte
from kakuremichi.wire.identity import NO_HASH


@dataclass(frozen=True, slots=True)
class Tip:
    """One reading of the last row: what the next has to follow, and what is wrong if it does follow this."""

    line: int
    seq: int
    digest: bytes
    fault: Callable[[], Finding] | None = None  # looked for only if this reading is the true one


@dataclass
class Chain:
    """Rows one after another; `settle` decides on the last one.

    A row whose hash does not fit has two readings until the next row says which it follows: its contents were changed,
    or its hash was. Of two rows with one number the one that the log goes on from is the true one.
    """

    seq: int = 0
    whole: bool = True  # no row is missing so far, so the tree can be computed
    found: list[Finding] = field(default_factory=list)
    _tips: list[Tip] = field(default_factory=lambda: [Tip(0, 0, NO_HASH)])
    _repairs: int = 0

    @classmethod
    def behind(cls, seq: int, digest: bytes, found: list[Finding]) -> "Chain":
        """A chain whose rows up to `seq` are elsewhere."""
        return cls(seq=seq, found=found, _tips=[Tip(0, seq, digest)])

    def row(self, line: int, row: LogRow) -> Tip | None:
        """Take the next row in; the one before, now that it is decided, None if it is not."""
        if row.seq <= self.seq:
            self._again(line, row)
            return None
        expected = self.seq + 1
        if row.seq != expected and self._seq_was_changed(row, expected):
            self.found.append(Finding(line, expected, "seq", f"its number was changed to {row.seq}"))
            row = row._replace(seq=expected)
        settled = self.settle(row)
        if row.seq != expected:
            self._gap(line, row, expected)
        self._tips = self._readings(line, row)
        self.seq = row.seq
        return settled

    def settle(self, follower: LogRow | None = None, *, known: bytes | None = None) -> Tip:
        """Decide on the last row: by the one that follows, or by a digest known from elsewhere."""
        wanted = follower.prev if follower is not None else known
        chosen = next((tip for tip in self._tips if tip.digest == wanted), None)
        if chosen is None and follower is not None:
            chosen = next((tip for tip in self._tips if _fits(follower, tip.digest)), None)
        chosen = chosen or self._tips[0]
        if chosen.fault:
            self.found.append(chosen.fault())
        for other in self._tips:
            if other.line != chosen.line:
                said = f"stands twice; the log goes on from line {chosen.line}, so this one does not belong to it"
                self.found.append(Finding(other.line, other.seq, "", said))
        self._tips = [Tip(chosen.line, chosen.seq, chosen.digest)]
        return self._tips[0]

    @property
    def digest(self) -> bytes:
        return self._tips[0].digest

    def _seq_was_changed(self, row: LogRow, expected: int) -> bool:
        return any(_fits(row._replace(seq=expected), tip.digest) for tip in self._tips)

    def _gap(self, line: int, row: LogRow, expected: int) -> None:
        self.whole = False
        missing = f"row {expected} is" if row.seq == expected + 1 else f"rows {expected} to {row.seq - 1} are"
        self.found.append(Finding(line, row.seq, "seq", f"{missing} missing before it"))
        if row_hash(row) == row.hash:  # then what it follows is what the missing one was
            self._tips = [Tip(0, expected, row.prev)]

    def _again(self, line: int, row: LogRow) -> None:
        if row.seq == self.seq and all(tip.line for tip in self._tips):
            self._tips.append(Tip(line, row.seq, row.hash))
            return
        self.found.append(Finding(line, row.seq, "seq", f"stands behind row {self.seq}, out of its place"))

    def _readings(self, line: int, row: LogRow) -> list[Tip]:
        before, computed = self.digest, row_hash(row)
        if row.prev == before and computed == row.hash:
            return [Tip(line, row.seq, row.hash)]
        if row.prev == before:
            return [
                Tip(line, row.seq, row.hash, lambda: self._contents(line, row)),
                Tip(line, row.seq, computed, lambda: Finding(line, row.seq, "hash", "its hash was changed")),
            ]
        if _fits(row, before):
            self.found.append(Finding(line, row.seq, "prev", "the hash of the row before was changed in it"))
            return [Tip(line, row.seq, row.hash)]
        said = "does not follow the row before"
        said += ": one of the two was replaced" if computed == row.hash else ", and is not what was written"
        self.found.append(Finding(line, row.seq, "", said))
        return [Tip(line, row.seq, row.hash)]

    def _contents(self, line: int, row: LogRow) -> Finding:
        self._repairs += 1
        found = changed_byte(row) if self._repairs <= MOST_REPAIRS else None
        if found is None:
            return Finding(line, row.seq, "", "is not what was written: topic, actor, time or fact was changed")
        name, place = found
        return Finding(line, row.seq, name, f"is not what was written: byte {place} of its {name} was changed")


def _fits(row: LogRow, before: bytes) -> bool:
    """Whether the row has its hash if it follows `before`."""
    return row_hash(row._replace(prev=before)) == row.hash
