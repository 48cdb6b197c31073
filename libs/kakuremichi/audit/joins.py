"""Exports of one log that was retired in parts: whether they meet, and are those that the log names. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kakuremichi.audit.findings import Finding
from kakuremichi.audit.verify import Report
from kakuremichi.wire.facts import LogRetired


@dataclass(frozen=True, slots=True)
class Part:
    """One file that was verified by itself. `state_sha256` is of the state after its last row, "" if not known."""

    name: str
    sha256: str  # hex
    report: Report
    state_sha256: str = ""


def in_order(parts: Sequence[Part]) -> list[Part]:
    return sorted(parts, key=lambda part: (part.report.after, part.report.last))


def joined(parts: Sequence[Part]) -> Iterator[Finding]:
    """What is missing between the files, swapped, or does not fit; `parts` in their order.

    One file alone is a part of the log, and good; of several the first has to begin with row 1.
    """
    named = [(part, seq, fact) for part in parts for seq, fact in part.report.retirements]
    if len(parts) > 1:
        yield from _missing(0, parts[0], "")
    for before, after in pairwise(parts):
        yield from _meet(before, after)
    yield from _begun(parts[-1], [fact for _, _, fact in named])
    for teller, seq, fact in named:
        for part in parts:
            if part.report.last == fact.last and part is not teller:
                yield from _is_named(part, teller, seq, fact)


def _missing(reached: int, part: Part, before: str) -> Iterator[Finding]:
    begin = part.report.begin
    if begin is not None and begin.seq > reached:
        between = f"between {before} and {part.name}" if before else f"before {part.name}"
        said = f"rows {reached + 1} to {begin.seq} are missing {between}"
        said += f": the last of them are in the export with the SHA-256 {begin.export_sha256}"
        yield Finding(0, begin.seq, "begin", said)


def _meet(before: Part, after: Part) -> Iterator[Finding]:
    one, other = before.report, after.report
    if (one.log_id, one.trust_sha256) != (other.log_id, other.trust_sha256):
        said = f"{after.name} is of log {other.log_id[:64]}, {before.name} of {one.log_id[:64]}"
        yield Finding(0, other.after, "log_id", said + ("" if one.log_id != other.log_id else " with other trust keys"))
        return
    if other.after > one.last:
        yield from _missing(one.last, after, before.name)
        return
    if other.begin is None or other.after < one.last:
        last = min(one.last, other.last)
        yield Finding(
            0, other.after + 1, "", f"rows {other.after + 1} to {last} are in {before.name} and in {after.name}"
        )
        return
    begin = other.begin
    differs = [
        name
        for name, same in (
            ("hash", begin.hash == one.hash.hex()),
            ("roots", begin.roots == one.roots),
            ("state", before.state_sha256 in ("", begin.state_sha256)),
        )
        if not same
    ]
    if differs:
        said = f"{after.name} does not go on from {before.name}: {' and '.join(differs)} after row {begin.seq} differ"
        yield Finding(0, begin.seq, differs[0], said)
    if begin.export_sha256 != before.sha256:
        yield Finding(
            0, begin.seq, "export_sha256", _swapped(before, f"{after.name} goes on from", begin.export_sha256)
        )


def _begun(part: Part, named: Sequence[LogRetired]) -> Iterator[Finding]:
    """Who reads to the end of a log that begins late comes by the row that says so. Retired rows may end before it."""
    begin = part.report.begin
    if begin is None or part.report.cover:
        return
    facts = [fact for fact in named if fact.last == begin.seq]
    if not facts:
        yield Finding(2, begin.seq, "begin", f"no row of the log says that rows up to {begin.seq} were retired")
    for fact in facts[-1:]:
        stated = {"hash": begin.hash, "export_sha256": begin.export_sha256, "state_sha256": begin.state_sha256}
        for name, value in stated.items():
            if getattr(fact, name) != value:
                said = f"{part.name} begins with another {name} than the log says of the rows that were retired"
                yield Finding(2, begin.seq, name, said)


def _is_named(part: Part, teller: Part, seq: int, fact: LogRetired) -> Iterator[Finding]:
    place = f"row {seq} in {teller.name} names"
    if part.sha256 != fact.export_sha256 and part.report.cover:
        yield Finding(0, fact.last, "export_sha256", _swapped(part, place, fact.export_sha256))
    if part.report.hash.hex() != fact.hash:
        yield Finding(0, fact.last, "hash", f"is another one in {part.name} than {place}")
    if part.state_sha256 not in ("", fact.state_sha256):
        yield Finding(0, fact.last, "state", f"the state after it is another one in {part.name} than {place}")


def _swapped(part: Part, who: str, wanted: str) -> str:
    return f"{part.name} has the SHA-256 {part.sha256}: {who} the export with {wanted}"
