"""`kakuremichi audit`: take the log along, and check that it is what was written."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import click

from kakuremichi.audit import export
from kakuremichi.audit.findings import Finding, compare
from kakuremichi.audit.verify import Known, Report, verify
from kakuremichi.cli.exits import FAILURE, USAGE, CliError
from kakuremichi.cli.options import with_client
from kakuremichi.cli.output import plain, print_json, talk
from kakuremichi.cli.past import sentences

PAGE_TIMEOUT_S = 60.0
NOTED = "SEQ:HASH"


@click.group()
def audit() -> None:
    """Export the log, and check an export: chain, tree, signatures, witnesses."""


@audit.command(name="export")
@click.option("--output", "file", type=click.Path(path_type=Path), metavar="FILE", help="Default: standard output.")
@with_client
def export_(client: Any, file: Path | None) -> None:
    """Write the whole log with its checkpoints as JSON lines."""
    with ExitStack() as stack:
        out: BinaryIO = sys.stdout.buffer
        if file is not None:
            try:
                out = stack.enter_context(file.open("xb"))
            except OSError as error:
                raise CliError(f"{file}: {error.strerror}", USAGE) from error
        rows = 0
        for line in exported(client):
            out.write(export.encode(line))
            rows += isinstance(line, export.RowLine)
        out.flush()
    talk(f"{rows} rows exported")


def exported(client: Any) -> Iterator[export.AnyLine]:
    """The lines of an export, as the pages of the API come."""
    after, last = 0, None
    page: dict[str, Any] = {"next_after": 0}
    while last is None or page["next_after"]:
        query = {"after": str(after)}
        page = client.call("GET", "audit", "export", query=query, timeout_s=PAGE_TIMEOUT_S)
        if last is None:
            yield export.Header(
                format=export.FORMAT, log_id=page["log_id"], deployment=_raw(page["deployment"]),
                trust=_raw(page["trust"]), feed_key=_raw(page["feed_key"]),
            )  # fmt: skip
            last = export.End(rows=0, hash="00" * 32)
        yield from _merged(page)
        if page["items"]:
            last = export.End(rows=page["items"][-1]["seq"], hash=page["items"][-1]["hash"])
        after = page["next_after"]
    yield last


def _merged(page: dict[str, Any]) -> Iterator[export.AnyLine]:
    """Each checkpoint behind the last row that it covers."""
    checkpoints = {each["size"]: each for each in page["checkpoints"]}
    for item in page["items"]:
        yield export.RowLine(**{name: item[name] for name in export.RowLine.__struct_fields__})
        if (found := checkpoints.get(item["seq"])) is not None:
            witnesses = tuple(map(_raw, found["witnesses"]))
            yield export.CheckpointLine(size=found["size"], signed=_raw(found["signed"]), witnesses=witnesses)


def _raw(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


@audit.command(name="verify")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--trust-sha256", metavar="HEX", help="Of the deployment's trust set, as its join tokens carry it.")
@click.option("--noted", metavar=NOTED, help="A row and its hash that you noted before: the log has to reach it.")
@click.option("--against", type=click.Path(path_type=Path), metavar="FILE", help="Compare with another export too.")
@click.option(
    "--against-database", is_flag=True, help="Compare with the tables too; KAKUREMICHI_DATABASE_URL names them."
)
@click.option(
    "--against-stream", is_flag=True,
    help="Compare with the stream AUDIT too; KAKUREMICHI_NATS_URL and KAKUREMICHI_NATS_CREDENTIALS name it.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def verify_(
    file: Path, *, trust_sha256: str | None, noted: str | None, against: Path | None, against_database: bool,
    against_stream: bool, output: str,
) -> None:  # fmt: skip
    """Check that FILE is the log and all of it; needs no server. Exit code 1 if anything does not fit."""
    known = _known(trust_sha256, noted)
    with sentences(file), file.open("rb") as lines:
        report = verify(lines, known)
    if against is not None:
        report.findings += _against_file(file, against)
    for flag, place in ((against_database, "database"), (against_stream, "stream")):
        if flag:
            report.findings += _against_program(file, place)
    if output == "json":
        print_json(_as_json(report))
    else:
        _print(report)
    if not report.good:
        raise click.exceptions.Exit(FAILURE)


def _known(trust_sha256: str | None, noted: str | None) -> Known:
    seq, _, digest = (noted or "0:").partition(":")
    try:
        return Known(bytes.fromhex(trust_sha256 or ""), int(seq), bytes.fromhex(digest))
    except ValueError as error:
        raise CliError(f"--trust-sha256 HEX, --noted {NOTED}: with hexadecimal digits", USAGE) from error


def _against_file(file: Path, other: Path) -> list[Finding]:
    with sentences(other), file.open("rb") as ours, other.open("rb") as theirs:
        return list(compare(export.rows(ours), export.rows(theirs), names=(str(file), str(other))))


def _against_program(file: Path, place: str) -> list[Finding]:
    """Only the registry's programs know its tables, and its stream; they print a finding a line."""
    argv = [sys.executable, "-m", "kakuremichi_registry.against", place, str(file)]
    done = subprocess.run(argv, env=os.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        raise CliError(said[-1])
    return [Finding(0, 0, "", line) for line in done.stdout.splitlines()]


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "good": report.good, "log_id": report.log_id, "deployment": report.deployment.hex(),
        "trust_sha256": report.trust_sha256.hex(), "pinned": report.pinned, "rows": report.rows,
        "hash": report.hash.hex(), "checkpoints": report.checkpoints, "covered": report.covered,
        "witnessed": report.witnessed, "witnesses": sorted(report.witnesses),
        "findings": [
            {"line": each.line, "seq": each.seq, "field": each.field, "sentence": str(each)} for each in report.findings
        ],
    }  # fmt: skip


def _print(report: Report) -> None:
    for finding in report.findings:
        click.echo(plain(f"{finding}"))
    click.echo(plain(f"{report.rows} rows of log {report.log_id}, the last has the hash {report.hash.hex()}"))
    names = ", ".join(sorted(report.witnesses))
    covered = f"{report.checkpoints} checkpoints: the feed key vouches for rows 1 to {report.covered}"
    click.echo(plain(covered + (f", {names} for 1 to {report.witnessed}" if names else ", no gateway does")))
    if not report.pinned:
        talk(f"trust set {report.trust_sha256.hex()}: compare it with what you know, or give it as --trust-sha256")
    click.echo("good" if report.good else f"NOT good: {len(report.findings)} findings")
