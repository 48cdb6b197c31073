"""Whether an export is the log and all of it: chain, tree, checkpoints and their witnesses, line by line. Pure."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from kakuremichi.audit import export
from kakuremichi.audit.chain import LogRow
from kakuremichi.audit.findings import Finding
from kakuremichi.audit.merkle import Frontier, ProofError, verify_consistency
from kakuremichi.audit.retirements import RETIRED, retirement_of
from kakuremichi.audit.seals import Authority, AuthorityError, Seal, authority_of, held_checkpoint, open_checkpoint
from kakuremichi.audit.tips import Chain, Tip
from kakuremichi.wire.checkpoints import Checkpoint
from kakuremichi.wire.facts import LogRetired

MOST_FINDINGS = 200  # a file of another kind would have one for every line


@dataclass(frozen=True, slots=True)
class Known:
    """What the auditor knows from elsewhere. Nothing of it: the file is only checked against itself."""

    trust_sha256: bytes = b""  # of the trust set's body, as every join token carries it
    seq: int = 0  # a row noted before, and its hash: the log has to reach it
    hash: bytes = b""
    held: bytes = b""  # what a gateway keeps as the checkpoint that it signed last: the log has to contain it


class Cover(NamedTuple):
    """A checkpoint of `size` rows, among them all of the file."""

    size: int
    signed: bytes
    witnesses: tuple[str, ...]  # node ids


@dataclass
class Report:
    log_id: str
    deployment: bytes
    trust_sha256: bytes
    pinned: bool  # the trust set is the one that the auditor knows
    rows: int = 0
    begin: export.Begin | None = None  # None: with row 1
    last: int = 0  # the sequence of the last row
    hash: bytes = b""
    roots: tuple[bytes, ...] = ()  # of the tree over all rows up to the last; () where some are missing
    retirements: list[tuple[int, LogRetired]] = field(default_factory=list)  # by the rows that tell them
    cover: Cover | None = None  # what the file ends with, as retired ones do; None: it ends with the log
    checkpoints: int = 0
    covered: int = 0  # rows under the last good checkpoint
    witnessed: int = 0  # rows under the last one that a gateway signed too
    witnesses: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    @property
    def after(self) -> int:
        """The row before the first."""
        return self.begin.seq if self.begin else 0

    @property
    def good(self) -> bool:
        return not self.findings


def verify(lines: Iterable[bytes], known: Known | None = None) -> Report:
    """Read a whole export; :class:`export.ExportError` if it is none of ours, else what was found, in its order."""
    reading: _Reading | None = None
    for number, line in export.read(lines):
        if reading is None:
            assert isinstance(line, export.Header)  # noqa: S101  # `read` gives nothing else first
            reading = _Reading(line, known or Known())
            continue
        reading.take(number, line)
        if len(reading.chain.found) > MOST_FINDINGS:
            reading.say(number, 0, "", f"more than {MOST_FINDINGS} findings: the rest was not looked at")
            return reading.finish(ended=True)
    if reading is None:
        raise export.ExportError(f"file: empty; an export begins with a header of format {export.FORMAT}")
    return reading.finish()


class _Reading:
    """One pass over the lines."""

    def __init__(self, header: export.Header, known: Known) -> None:
        self._header, self._known = header, known
        self.chain, self._tree = Chain(), Frontier()
        self.authority: Authority | None = None
        self._tree_is_whole, self._ended = True, False
        self._noted: bytes | None = None
        self._cover: tuple[int, export.CoverLine] | None = None
        self._held: Checkpoint | None = None
        self._held_root: bytes | None = None
        self._states, self._state_sha256 = 0, hashlib.sha256()
        trust_sha256 = b""
        try:
            self.authority = authority_of(header)
            trust_sha256 = self.authority.trust_sha256
            if self._known.held:
                self._held = held_checkpoint(self.authority, self._known.held, header.log_id)
        except AuthorityError as error:
            self.say(1, 0, error.field, str(error))
        pinned = bool(known.trust_sha256) and known.trust_sha256 == trust_sha256
        self.report = Report(header.log_id, header.deployment, trust_sha256, pinned)
        if known.trust_sha256 and not pinned:
            said = f"trust set {trust_sha256.hex() or '(unreadable)'}: is not the known one, {known.trust_sha256.hex()}"
            self.say(1, 0, "trust", f"{said}; the export is of another deployment")

    def say(self, line: int, seq: int, name: str, sentence: str) -> None:
        self.chain.found.append(Finding(line, seq, name, sentence))

    def take(self, number: int, line: export.AnyLine | export.Misread) -> None:
        if self._ended or (self._cover is not None and not isinstance(line, export.End)):
            self.say(number, 0, "", "stands behind the end")
            return
        match line:
            case export.RowLine():
                self._row(number, line)
            case export.Begin():
                self._begin(number, line)
            case export.StateLine():
                self._state_line(number, line)
            case export.CoverLine():
                self._cover = (number, line)  # it is about the last row, which the end decides on
            case export.CheckpointLine():
                self._checkpoint(number, line)
            case export.End():
                self._end(number, line)
            case export.Header():
                self.say(number, 0, "", "a second header; exports are not to be joined")
            case export.Misread():
                self.say(number, 0, "", line.reason)

    def _begin(self, number: int, line: export.Begin) -> None:
        if number != 2:
            self.say(number, 0, "begin", "a beginning that does not follow the header")
            return
        try:
            self._tree = Frontier(line.seq, line.roots)
            digest = bytes.fromhex(line.hash)
        except ValueError as error:
            self.say(number, line.seq, "begin", f"is no place where an export can begin: {error}")
            self._tree_is_whole = False
            return
        self.report.begin = line
        self._see_held()
        self.chain = Chain.behind(line.seq, digest, self.chain.found)

    def _state_line(self, number: int, line: export.StateLine) -> None:
        if self.report.begin is None or self.report.rows:
            self.say(number, 0, "state", "a row of a state that does not follow a beginning")
            return
        self._states += 1
        self._state_sha256.update(line.row.encode() + b"\n")

    def _check_state(self) -> None:
        begin = self.report.begin
        if begin is None or (self._states, self._state_sha256.hexdigest()) == (begin.states, begin.state_sha256):
            return
        said = f"{self._states} rows of the state follow, of {begin.states}" if self._states != begin.states else ""
        self.say(2, begin.seq, "state", said or "the state after it is not the one that the beginning names")

    def _row(self, number: int, line: export.RowLine) -> None:
        if line.log_id != self._header.log_id:
            said = f"is of log {line.log_id[:64]}, this export of {self._header.log_id[:64]}"
            self.say(number, line.seq, "log_id", said)
        try:
            row = LogRow.of(line)
        except ValueError:
            self.say(number, line.seq, "hash", "prev or hash is not hexadecimal")
            return
        if row.hash.hex() != line.hash or row.prev.hex() != line.prev:
            self.say(number, line.seq, "hash", "prev or hash is not in lower case hexadecimal digits")
        self._append(self.chain.row(number, row))
        if row.seq == self._known.seq:
            self._noted = row.hash
        if row.topic == RETIRED and (fact := retirement_of(row)) is not None:
            self.report.retirements.append((row.seq, fact))
        self.report.rows += 1

    def _append(self, settled: Tip | None) -> None:
        """A row is decided on once by a checkpoint and again by the row behind it."""
        if settled is not None and settled.seq == self._tree.size + 1:
            self._tree.append(settled.digest)
            self._see_held()

    def _see_held(self) -> None:
        if self._held is not None and self._tree.size == self._held.size:
            self._held_root = self._tree.root()

    def _check_held(self, held: Checkpoint) -> None:
        if self._held_root == held.root or not (self.chain.whole and self._tree_is_whole):
            return
        if self._held_root is not None:
            said = f"log of {held.size} rows: is not the one that the gateway signed; rows before were written anew"
        elif held.size < self.report.after:
            said = f"a gateway signed {held.size} rows, which have left with an earlier export: verify that too"
        else:
            said = f"a gateway signed {held.size} rows, and the log does not reach them"
        self.say(0, held.size, "held", said)

    def _checkpoint(self, number: int, line: export.CheckpointLine) -> None:
        if self.authority is None:
            return
        try:
            seal = open_checkpoint(self.authority, line, self._header.log_id)
        except AuthorityError as error:
            self.say(number, 0, error.field, str(error))
            return
        for sentence in seal.doubtful:
            self.say(number, 0, "witnesses", sentence)
        self._append(self.chain.settle(known=seal.checkpoint.hash))
        if self._fits(number, seal.checkpoint):
            self._count(seal, seal.checkpoint.size)

    def _fits(self, number: int, checkpoint: Checkpoint) -> bool:
        covered = max(self.report.covered, self.report.after)
        if checkpoint.size != self.chain.seq:
            said = f"of {checkpoint.size} rows: stands behind row {self.chain.seq}"
            said += "; rows before it are missing" if checkpoint.size > self.chain.seq else ""
            self.say(number, 0, "size", f"checkpoint {said}")
            return False
        if checkpoint.hash != self.chain.digest:
            said = f"is not the one that the feed key signed; rows {covered + 1} to {checkpoint.size} were written anew"
            self.say(number, checkpoint.size, "hash", said)
            self._tree_is_whole = False
            return False
        if not (self.chain.whole and self._tree_is_whole):
            return False  # the chain says that the end is the true one; what is missing was told
        if checkpoint.root != self._tree.root():
            said = f"checkpoint of {checkpoint.size} rows: its root is not that of the rows; one of"
            self.say(number, 0, "root", f"{said} {covered + 1} to {checkpoint.size} is not what was signed")
            self._tree_is_whole = False
            return False
        return True

    def _check_cover(self, number: int, line: export.CoverLine) -> None:
        """A checkpoint of rows that go on behind the file's last: the tree says that these are the first of them."""
        if self.authority is None:
            return
        try:
            seal = open_checkpoint(self.authority, line, self._header.log_id)
            if self.chain.whole and self._tree_is_whole:
                size, checkpoint = self._tree.size, seal.checkpoint
                verify_consistency(size, self._tree.root(), checkpoint.size, checkpoint.root, line.proof)
                self._count(seal, size)
        except AuthorityError as error:
            self.say(number, 0, error.field, str(error))
            return
        except ProofError as error:
            first, last = max(self.report.covered, self.report.after) + 1, self.chain.seq
            said = f"checkpoint of {line.size} rows: {error}; rows {first} to {last} are not what was signed"
            self.say(number, last, "root", said)
            return
        for sentence in seal.doubtful:
            self.say(number, 0, "witnesses", sentence)
        self.report.cover = Cover(seal.checkpoint.size, line.signed, seal.witnesses)

    def _count(self, seal: Seal, size: int) -> None:
        report = self.report
        report.checkpoints += 1
        report.covered = size
        if seal.witnesses:
            report.witnessed = size
            report.witnesses |= set(seal.witnesses)

    def _end(self, number: int, line: export.End) -> None:
        self._ended = True
        digest = hashlib.sha256().digest()
        try:
            digest = bytes.fromhex(line.hash)
        except ValueError:
            self.say(number, 0, "hash", "the end's hash is not hexadecimal")
        self._append(self.chain.settle(known=digest))
        if line.rows != self.report.rows:
            self.say(number, 0, "rows", f"{line.rows} rows were exported, {self.report.rows} are in the file")
        elif digest != self.chain.digest:
            self.say(number, 0, "hash", f"the last row is not the one that was exported, row {self.chain.seq}")

    def finish(self, *, ended: bool = False) -> Report:
        if not (self._ended or ended):
            self._append(self.chain.settle())
            self.say(0, 0, "", f"file: ends behind row {self.chain.seq} without its last line: it was cut off")
        self._check_state()
        if self._cover is not None:
            self._check_cover(*self._cover)
        if self._held is not None:
            self._check_held(self._held)
        if self._known.seq and self._noted != self._known.hash:
            what = "is not the one that was noted" if self._noted else "was noted before, and the log does not reach it"
            self.say(0, self._known.seq, "hash", what)
        report = self.report
        report.last, report.hash, report.findings = self.chain.seq, self.chain.digest, self.chain.found
        if self.chain.whole and self._tree_is_whole and self._tree.size == report.last:
            report.roots = self._tree.roots
        return report
