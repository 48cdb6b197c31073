"""A log that was retired in parts, made without a registry: the files, and what they should be."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from kakuremichi.audit import export
from kakuremichi.audit.beginning import begin_of
from kakuremichi.audit.chain import LogRow
from kakuremichi.audit.fold import fold
from kakuremichi.audit.joins import Part
from kakuremichi.audit.merkle import Frontier, consistency_proof, subtree_of
from kakuremichi.audit.state import State
from kakuremichi.audit.verify import verify
from kakuremichi.wire.facts import LogRetired
from support.exports import LOG_ID, Made, chained, every_kind, text

Begun = tuple[export.Begin, list[str]]


def frontier(rows: Sequence[LogRow]) -> Frontier:
    made = Frontier()
    for row in rows:
        made.append(row.hash)
    return made


def begun(rows: Sequence[LogRow], sha256: str) -> Begun:
    """Where a file begins behind these rows, which left with the file of this hash."""
    state = fold(State(log_id=LOG_ID), rows)
    return begin_of(state, frontier(rows).roots, bytes.fromhex(sha256))


def lines_of(rows: Sequence[LogRow], begin: Begun | None, *, last: int, cover: bool) -> bytes:
    """Rows up to `last` behind `begin`; with a cover by a checkpoint of all `rows`, or a checkpoint at the end."""
    made = Made(list(rows), marks=(), witnessed=(len(rows),))
    header = export.encode(made.header()).replace(export.FORMAT.encode(), export.FORMAT_OF_PART.encode())
    said: list[export.AnyLine] = []
    first = 0
    if begin is not None:
        first = begin[0].seq
        said += [begin[0], *(export.StateLine(row=row) for row in begin[1])]
    said += [export.row_line(row.logged(LOG_ID)) for row in rows[first:last]]
    mark = made.checkpoint(len(rows))
    if cover:
        proof = consistency_proof(last, len(rows), subtree_of([row.hash for row in rows]))
        said.append(export.CoverLine(size=mark.size, signed=mark.signed, witnesses=mark.witnesses, proof=proof))
    else:
        said.append(mark)
    said.append(export.End(rows=last - first, hash=rows[last - 1].hash.hex()))
    return header + b"".join(map(export.encode, said))


def retired_in_parts(folder: Path, cuts: Sequence[int]) -> list[Path]:
    """The files of a log that was cut behind these rows, in their order; the last is what is left."""
    rows = chained(every_kind())
    begin: Begun | None = None
    files, before = [], 0
    for cut in cuts:
        content = lines_of(rows, begin, last=cut, cover=True)
        files.append(folder / f"rows-{before + 1}.jsonl")
        files[-1].write_bytes(content)
        begin = begun(rows[:cut], hashlib.sha256(content).hexdigest())
        fact = LogRetired(
            first=before + 1, last=cut, hash=begin[0].hash, root=frontier(rows[:cut]).root().hex(),
            checkpoint=text(Made(rows).checkpoint(len(rows)).signed), checkpoint_size=len(rows), witnesses=("gw1",),  # type: ignore[arg-type]
            export_sha256=begin[0].export_sha256, state_sha256=begin[0].state_sha256,
        )  # fmt: skip
        rows += chained([fact], seq=len(rows), before=rows[-1].hash)
        before = cut
    files.append(folder / "left.jsonl")
    files[-1].write_bytes(lines_of(rows, begin, last=len(rows), cover=False))
    return files


def part_of(content: bytes, name: str) -> Part:
    """A file verified by itself, without its state folded."""
    return Part(name, hashlib.sha256(content).hexdigest(), verify(content.splitlines(keepends=True)))
