"""Whether an export is the log and all of it: chain, tree, checkpoints and their witnesses, line by line. Pure."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from kakuremichi.audit import export
from kakuremichi.audit.chain import LogRow
from kakuremichi.audit.findings import Finding
from kakuremichi.audit.merkle import Frontier
from kakuremichi.audit.seals import Authority, AuthorityError, Seal, authority_of, open_checkpoint
from kakuremichi.audit.tips import Chain, Tip
from kakuremichi.wire.checkpoints import Checkpoint

MOST_FINDINGS = 200  # a file of another kind would have one for every line


@dataclass(frozen=True, slots=True)
class Known:
    """What the auditor knows from elsewhere. Nothing of it: the file is only checked against itself."""

    trust_sha256: bytes = b""  # of the trust set's body, as every join token carries it
    seq: int = 0  # a row noted before, and its hash: the log has to reach it
    hash: bytes = b""


@dataclass
class Report:
    log_id: str
    deployment: bytes
    trust_sha256: bytes
    pinned: bool  # the trust set is the one that the auditor knows
    rows: int = 0
    hash: bytes = b""
    checkpoints: int = 0
    covered: int = 0  # rows under the last good checkpoint
    witnessed: int = 0  # rows under the last one that a gateway signed too
    witnesses: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

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
        trust_sha256 = b""
        try:
            self.authority = authority_of(header)
            trust_sha256 = self.authority.trust_sha256
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
        if self._ended:
            self.say(number, 0, "", "stands behind the end")
            return
        match line:
            case export.RowLine():
                self._row(number, line)
            case export.CheckpointLine():
                self._checkpoint(number, line)
            case export.End():
                self._end(number, line)
            case export.Header():
                self.say(number, 0, "", "a second header; exports are not to be joined")
            case export.Misread():
                self.say(number, 0, "", line.reason)

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
        self.report.rows += 1

    def _append(self, settled: Tip | None) -> None:
        """A row is decided on once by a checkpoint and again by the row behind it."""
        if settled is not None and settled.seq == self._tree.size + 1:
            self._tree.append(settled.digest)

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
            self._count(seal)

    def _fits(self, number: int, checkpoint: Checkpoint) -> bool:
        covered = self.report.covered
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

    def _count(self, seal: Seal) -> None:
        report, size = self.report, seal.checkpoint.size
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
        if self._known.seq and self._noted != self._known.hash:
            what = "is not the one that was noted" if self._noted else "was noted before, and the log does not reach it"
            self.say(0, self._known.seq, "hash", what)
        self.report.hash, self.report.findings = self.chain.digest, self.chain.found
        return self.report
