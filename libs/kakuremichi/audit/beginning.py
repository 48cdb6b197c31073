"""Where an export begins whose first rows are elsewhere: its place in chain and tree, and the state there. Pure."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kakuremichi.audit import export
from kakuremichi.audit.export import ExportError
from kakuremichi.audit.rows import RowRefusedError
from kakuremichi.audit.state import State, dump, load


class Opening(NamedTuple):
    """What stands before the first row. `begin` is None where that is row 1."""

    header: export.Header
    begin: export.Begin | None
    state: State


def opening(lines: Iterable[bytes]) -> Opening:
    """:class:`ExportError` if it is no export, or its state is not the one that it says."""
    header: export.Header | None = None
    begin: export.Begin | None = None
    rows: list[str] = []
    for number, line in export.read(lines):
        match line:
            case export.Header():
                header = line
            case export.Begin() if number == 2:
                begin = line
            case export.StateLine():
                rows.append(line.row)
            case _:
                break
    if header is None:
        raise ExportError(f"file: empty; an export begins with a header of format {export.FORMAT}")
    return Opening(header, begin, _state(header, begin, rows))


def _state(header: export.Header, begin: export.Begin | None, rows: Sequence[str]) -> State:
    if begin is None:
        return State(log_id=header.log_id)
    if state_sha256(rows) != begin.state_sha256 or len(rows) != begin.states:
        raise ExportError(f"line 2: the state that follows is not the one after row {begin.seq}; verify the export")
    try:
        digest, body = bytes.fromhex(begin.hash), "\n".join(rows).encode()
        return load(body, log_id=header.log_id, seq=begin.seq, digest_of_row=digest, at=begin.at)
    except (ValueError, RowRefusedError) as error:
        raise ExportError(f"line 2: the state that follows cannot be read: {error}") from error


def state_sha256(rows: Iterable[str]) -> str:
    """Of the rows of a state as snapshots keep them, each with a line feed; hexadecimal."""
    total = hashlib.sha256()
    for row in rows:
        total.update(row.encode() + b"\n")
    return total.hexdigest()


def begin_of(state: State, roots: Sequence[bytes], export_sha256: bytes) -> tuple[export.Begin, list[str]]:
    """The place behind which an export begins, and the rows of its `state` lines."""
    rows = [row.decode() for row in dump(state).splitlines()]
    begin = export.Begin(
        seq=state.seq, hash=state.hash.hex(), at=state.at, roots=tuple(roots), export_sha256=export_sha256.hex(),
        states=len(rows), state_sha256=state_sha256(rows),
    )  # fmt: skip
    return begin, rows
