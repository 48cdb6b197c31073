"""Exports of the log, checked one by one and together, and how that is told."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from kakuremichi.audit import export
from kakuremichi.audit.beginning import begin_of, opening
from kakuremichi.audit.export import ExportError
from kakuremichi.audit.findings import Finding
from kakuremichi.audit.fold import FoldError, fold
from kakuremichi.audit.joins import Part, in_order, joined
from kakuremichi.audit.seals import size_of_held
from kakuremichi.audit.verify import Known, Report, verify
from kakuremichi.cli.output import plain, print_json, talk
from kakuremichi.cli.past import sentences


def checked(files: Sequence[Path], known: Known) -> tuple[list[Part], list[Finding]]:
    """The files in the order of their rows, each with what was found in it; and what is wrong between them."""
    begins = {file: _begins(file) for file in files}
    ordered = sorted(files, key=begins.__getitem__)
    held = _place(ordered, begins, size_of_held(known.held) if known.held else 0)
    noted = _place(ordered, begins, known.seq)
    parts = []
    for file in ordered:
        told = known if file == noted else replace(known, seq=0, hash=b"")
        parts.append(_part(file, told if file == held else replace(told, held=b""), fold_it=len(files) > 1))
    parts = in_order(parts)
    return parts, list(joined(parts))


def _place(ordered: Sequence[Path], begins: Mapping[Path, int], row: int) -> Path:
    """The file that has the row, if any has: the last that begins before it."""
    return max((file for file in ordered if begins[file] < row), key=begins.__getitem__, default=ordered[0])


def _begins(file: Path) -> int:
    """The row before the file's first, as it says itself."""
    with sentences(file), file.open("rb") as lines:
        for number, line in export.read(lines):
            if number == 2:
                return line.seq if isinstance(line, export.Begin) else 0
    return 0


def _part(file: Path, known: Known, *, fold_it: bool) -> Part:
    with sentences(file), file.open("rb") as lines:
        report = verify(lines, known)
        lines.seek(0)
        sha256 = hashlib.file_digest(lines, "sha256").hexdigest()
    return Part(str(file), sha256, report, _state_sha256(file) if fold_it and report.good else "")


def _state_sha256(file: Path) -> str:
    """Of the state that the file's rows lead to; "" if they lead to none, which others have to judge."""
    with file.open("rb") as lines:
        try:
            state = opening(lines).state
            lines.seek(0)
            begin, _ = begin_of(fold(state, export.rows(lines)), (), b"")
        except (ExportError, FoldError):
            return ""
    return begin.state_sha256


def tell(parts: Sequence[Part], between: Sequence[Finding], output: str) -> None:
    if output == "json":
        if len(parts) == 1:
            print_json(_as_json(parts[0], between))
        else:
            good = not between and all(part.report.good for part in parts)
            print_json({"good": good, "files": [_as_json(part, ()) for part in parts], "findings": _findings(between)})
        return
    for part in parts:
        _print(part, several=len(parts) > 1)
    for finding in between:
        click.echo(plain(f"{finding}"))
    count = len(between) + sum(len(part.report.findings) for part in parts)
    click.echo(f"NOT good: {count} findings" if count else "good")


def _print(part: Part, *, several: bool) -> None:
    report = part.report
    if several:
        click.echo(plain(f"{part.name}: SHA-256 {part.sha256}"))
    for finding in report.findings:
        click.echo(plain(f"{finding}"))
    first = report.after + 1
    click.echo(plain(f"{report.rows} rows of log {report.log_id}, the last has the hash {report.hash.hex()}"))
    names = ", ".join(sorted(report.witnesses))
    covered = f"{report.checkpoints} checkpoints: the feed key vouches for rows {first} to {report.covered}"
    click.echo(plain(covered + (f", {names} for {first} to {report.witnessed}" if names else ", no gateway does")))
    if report.begin is not None and not several:
        talk(
            f"rows 1 to {report.after} have left the log: the last of them are in the export with the SHA-256"
            f" {report.begin.export_sha256}; give all parts to have them checked together"
        )
    if not report.pinned:
        talk(f"trust set {report.trust_sha256.hex()}: compare it with what you know, or give it as --trust-sha256")


def _as_json(part: Part, between: Sequence[Finding]) -> dict[str, Any]:
    report: Report = part.report
    findings = [*report.findings, *between]
    return {
        "good": not findings, "file": part.name, "sha256": part.sha256, "log_id": report.log_id,
        "deployment": report.deployment.hex(), "trust_sha256": report.trust_sha256.hex(), "pinned": report.pinned,
        "first": report.after + 1, "last": report.last, "rows": report.rows, "hash": report.hash.hex(),
        "checkpoints": report.checkpoints, "covered": report.covered, "witnessed": report.witnessed,
        "witnesses": sorted(report.witnesses), "findings": _findings(findings),
    }  # fmt: skip


def _findings(found: Sequence[Finding]) -> list[dict[str, Any]]:
    return [{"line": each.line, "seq": each.seq, "field": each.field, "sentence": str(each)} for each in found]
