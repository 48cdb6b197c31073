"""The export of rows that are to leave: written, put on the disk, and read back from there before anything goes."""

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from kakuremichi.audit import export
from kakuremichi.audit.beginning import begin_of, opening
from kakuremichi.audit.fold import fold
from kakuremichi.audit.state import State
from kakuremichi.audit.verify import Known, Report, verify
from kakuremichi.runtime.files import written_whole
from kakuremichi.wire.codec import encode
from kakuremichi_registry.database import Database
from kakuremichi_registry.retirement import RetireError
from kakuremichi_registry.store import checkpoints, retirement, truth
from kakuremichi_registry.store.retirement import Cut, Deployment
from kakuremichi_registry.tree import LogTree

ROWS = 500  # of one statement


class ReadBack(NamedTuple):
    """What the file says, and not the database."""

    report: Report
    sha256: bytes
    state: State  # after its last row
    entries: list[bytes]  # the hashes of its rows


async def write(database: Database, file: Path, cut: Cut | None, until: int, covering: int) -> None:
    """Rows after `cut` up to `until` with all that proves them; `covering` is the size of the checkpoint at the end.

    It is written beside and renamed when it is on the disk: a file of this name is whole. Raises OSError.
    """
    with written_whole(file) as out:
        async for line in _lines(database, cut, until, covering):
            out.write(export.encode(line))


def header_of(known: Deployment, *, part: bool = True) -> export.Header:
    return export.Header(
        format=export.FORMAT_OF_PART if part else export.FORMAT, log_id=known.log_id, deployment=known.deployment,
        trust=known.trust, feed_key=known.feed_key,
    )  # fmt: skip


async def _lines(database: Database, cut: Cut | None, until: int, covering: int) -> AsyncIterator[export.AnyLine]:
    known = await retirement.deployment(database)
    if known is None:
        raise RetireError("database: is of no deployment, there is nothing in it")
    yield header_of(known)
    if cut is not None:
        async for line in _beginning(database, cut):
            yield line
    after = first = cut.seq if cut else 0
    digest = b""
    while after < until:
        page = await truth.log_rows(database, after, until, ROWS)
        if not page or page[0].seq != after + 1:
            raise RetireError(f"log row {after + 1}: is not in this database")
        marks = {each.size: each for each in await checkpoints.between(database, after, page[-1].seq, ROWS)}
        for row in page:
            yield export.row_line(row.logged(known.log_id))
            if (mark := marks.get(row.seq)) is not None:
                yield export.CheckpointLine(
                    size=mark.size, signed=encode(mark.signed), witnesses=tuple(map(encode, mark.witnesses))
                )
        after, digest = page[-1].seq, page[-1].hash
    yield await _cover(database, until, covering)
    yield export.End(rows=until - first, hash=digest.hex())


async def _beginning(database: Database, cut: Cut) -> AsyncIterator[export.AnyLine]:
    state = await retirement.state_at_cut(database, cut)
    if state is None:
        raise RetireError(f"log row {cut.seq}: the state after it is not in this database any more")
    begin, rows = begin_of(state, cut.roots, cut.export_sha256)
    yield begin
    for row in rows:
        yield export.StateLine(row=row)


async def _cover(database: Database, until: int, size: int) -> export.CoverLine:
    found = await checkpoints.between(database, size - 1, size, 1)
    if not found:
        raise RetireError(f"checkpoint of {size} rows: is not in this database any more; begin again")
    mark = found[0]
    return export.CoverLine(
        size=size, signed=encode(mark.signed), witnesses=tuple(map(encode, mark.witnesses)),
        proof=await LogTree(database).proof(until, size),
    )  # fmt: skip


def read_back(file: Path, trust_sha256: bytes) -> ReadBack:
    """Verify the file as an auditor does, and fold it; :class:`RetireError` with what was found."""
    with file.open("rb") as lines:
        report = verify(lines, Known(trust_sha256=trust_sha256))
        if not report.good:
            raise RetireError(f"{file}: {report.findings[0]}; nothing was retired")
        lines.seek(0)
        state = opening(lines).state
        lines.seek(0)
        entries = []
        for row in export.rows(lines):
            fold(state, (row,))
            entries.append(row.hash)
        lines.seek(0)
        sha256 = hashlib.file_digest(lines, "sha256").digest()
        os.fsync(lines.fileno())
    return ReadBack(report, sha256, state, entries)
