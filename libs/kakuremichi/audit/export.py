"""An export of the log: JSON lines that say all that is needed to check them, offline and years later. Pure.

The first line is the header, then the rows in order, each checkpoint behind the last row that it covers, the end. Of a
log whose first rows were retired the header is followed by where it begins and the state there; an export of rows that
are to be retired ends with the checkpoint that covers them.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
from msgspec import Struct

from kakuremichi.audit.chain import LogRow
from kakuremichi.wire.facts import LoggedFact

FORMAT = "kakuremichi-audit-export.v1"  # a log from its first row on
FORMAT_OF_PART = "kakuremichi-audit-export.v2"  # with a `begin`, a `cover`, or both
MAX_LINE_BYTES = 1024 * 1024  # a row comes from one message of the bus; this is an order of magnitude more


class Line(Struct, frozen=True, kw_only=True, tag_field="line", forbid_unknown_fields=True):
    """Base. Bytes are base64."""


class Header(Line, frozen=True, kw_only=True, tag="header"):
    format: str
    log_id: str
    deployment: bytes
    trust: bytes  # Signed TrustSet, as sent
    feed_key: bytes  # Signed FeedKeyCertificate, as sent


class RowLine(LoggedFact, frozen=True, kw_only=True, tag_field="line", tag="row", forbid_unknown_fields=True):
    """One row, with the members that `audit.<topic>` has."""


class CheckpointLine(Line, frozen=True, kw_only=True, tag="checkpoint"):
    size: int  # again, for people; what counts is the signed one
    signed: bytes  # Signed Checkpoint, as published
    witnesses: tuple[bytes, ...] = ()  # Cosignature, each


class Begin(Line, frozen=True, kw_only=True, tag="begin"):
    """The rows up to `seq` are elsewhere: their place in chain and tree, and as many `state` lines as `states` says."""

    seq: int
    hash: str  # hex, of row `seq`
    at: str  # of row `seq`
    roots: tuple[bytes, ...]  # of the perfect subtrees over rows 1 to `seq`, see kakuremichi.audit.merkle
    export_sha256: str  # hex, of the file that row `seq` left with
    states: int
    state_sha256: str  # hex, over the rows of the state, each with a line feed


class StateLine(Line, frozen=True, kw_only=True, tag="state"):
    row: str  # a row of the state as snapshots keep it, see kakuremichi.audit.rows


class CoverLine(Line, frozen=True, kw_only=True, tag="cover"):
    """A checkpoint of `size` rows, that of the file's last row or a later one, and that it continues the file's."""

    size: int
    signed: bytes  # Signed Checkpoint, as published
    witnesses: tuple[bytes, ...]  # Cosignature, each
    proof: tuple[bytes, ...]  # consistency of the tree over the rows so far with the checkpoint's


class End(Line, frozen=True, kw_only=True, tag="end"):
    rows: int  # in this file
    hash: str  # hex, of the last row


AnyLine = Header | Begin | StateLine | RowLine | CheckpointLine | CoverLine | End

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyLine)


class ExportError(ValueError):
    """The file is no export, or not one that can be read on; a sentence with the line."""


class Misread(NamedTuple):
    """A line that is none of an export, and why."""

    reason: str


def row_line(logged: LoggedFact) -> RowLine:
    return RowLine(
        log_id=logged.log_id, seq=logged.seq, prev=logged.prev, hash=logged.hash, topic=logged.topic,
        actor=logged.actor, at=logged.at, fact=logged.fact,
    )  # fmt: skip


def encode(line: AnyLine) -> bytes:
    return _encoder.encode(line) + b"\n"


def read(lines: Iterable[bytes]) -> Iterator[tuple[int, AnyLine | Misread]]:
    """(number, line) of each; :class:`ExportError` if the first is no header of ours."""
    for number, raw in enumerate(lines, 1):
        line = _read(raw)
        if number == 1:
            _check_header(line)
        yield number, line


def _read(raw: bytes) -> AnyLine | Misread:
    if not raw.endswith(b"\n"):
        return Misread("ends without a line end: the file was cut off")
    if len(raw) > MAX_LINE_BYTES:
        return Misread(f"{len(raw)} bytes, at most {MAX_LINE_BYTES} are read")
    try:
        line: AnyLine = _decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Misread(f"no line of an export: {error}")
    return line


def _check_header(line: AnyLine | Misread) -> None:
    if isinstance(line, Misread):
        raise ExportError(f"line 1: {line.reason}; an export begins with a header of format {FORMAT}")
    if not isinstance(line, Header):
        raise ExportError(f"line 1: no header; an export begins with one of format {FORMAT}")
    if line.format not in (FORMAT, FORMAT_OF_PART):
        raise ExportError(f"line 1: format {line.format[:64]!r}; this release reads {FORMAT} and {FORMAT_OF_PART}")


def rows(lines: Iterable[bytes]) -> Iterator[LogRow]:
    """The rows alone, whole and in order, from where the file begins; :class:`ExportError` if it is cut off or damaged.

    Neither the chain nor a signature is checked: that is `kakuremichi.audit.verify`.
    """
    log_id, seq, number, after, ended = "", 0, 0, 0, False
    for number, line in read(lines):
        if isinstance(line, Misread):
            raise ExportError(f"line {number}: {line.reason}")
        if ended:
            raise ExportError(f"line {number}: stands behind the end")
        if isinstance(line, Header):
            log_id = _only_first(number, line).log_id
        elif isinstance(line, Begin):
            seq = after = _only_second(number, line).seq
        elif isinstance(line, RowLine):
            _check_place(number, line, log_id, seq + 1)
            seq = line.seq
            yield _log_row(number, line)
        elif isinstance(line, End):
            ended = _right_end(number, line, seq - after)
    if not number:
        raise ExportError(f"file: empty; an export begins with a header of format {FORMAT}")
    if not ended:
        raise ExportError(f"file: ends behind row {seq} without its last line: it was cut off")


def _only_first(number: int, header: Header) -> Header:
    if number != 1:
        raise ExportError(f"line {number}: a second header; exports are not to be joined")
    return header


def _only_second(number: int, begin: Begin) -> Begin:
    if number != 2:
        raise ExportError(f"line {number}: a beginning that does not follow the header")
    return begin


def _right_end(number: int, end: End, found: int) -> bool:
    if end.rows != found:
        raise ExportError(f"line {number}: {end.rows} rows were exported, {found} are in the file")
    return True


def _check_place(number: int, line: RowLine, log_id: str, expected: int) -> None:
    if line.log_id != log_id:
        raise ExportError(f"line {number}: log row {line.seq} is of log {line.log_id[:64]}, the export of {log_id}")
    if line.seq != expected:
        raise ExportError(f"line {number}: log row {line.seq} stands where {expected} belongs")


def _log_row(number: int, line: RowLine) -> LogRow:
    try:
        return LogRow.of(line)
    except ValueError as error:
        raise ExportError(f"line {number}: log row {line.seq}: a hash is not hexadecimal") from error
