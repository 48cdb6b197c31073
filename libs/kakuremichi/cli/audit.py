"""`kakuremichi audit`: take the log along, and check that it is what was written."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import click

from kakuremichi.audit import export
from kakuremichi.audit.findings import Finding, compare
from kakuremichi.audit.seals import AuthorityError, size_of_held
from kakuremichi.audit.verify import Known
from kakuremichi.cli.exits import FAILURE, UNREACHABLE, USAGE, CliError
from kakuremichi.cli.options import with_client
from kakuremichi.cli.output import plain, talk
from kakuremichi.cli.past import sentences
from kakuremichi.cli.verifying import checked, tell

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
    page = _page(client, 0, 0)
    begin = page["begin"]
    yield export.Header(
        format=export.FORMAT_OF_PART if begin else export.FORMAT, log_id=page["log_id"],
        deployment=_raw(page["deployment"]), trust=_raw(page["trust"]), feed_key=_raw(page["feed_key"]),
    )  # fmt: skip
    if begin:
        yield export.Begin(**begin | {"roots": tuple(map(_raw, begin["roots"]))})
        yield from map(_state_line, page["state"])
        while page["next_state"]:
            page = _page(client, 0, page["next_state"], begun=begin)
            yield from map(_state_line, page["state"])
    rows, digest = 0, begin["hash"] if begin else "00" * 32
    while True:
        yield from _merged(page)
        if page["items"]:
            rows, digest = rows + len(page["items"]), page["items"][-1]["hash"]
        if not page["next_after"]:
            break
        page = _page(client, page["next_after"], 0, begun=None)
    yield export.End(rows=rows, hash=digest)


def _page(client: Any, after: int, state_after: int, begun: Any = ...) -> dict[str, Any]:
    """`begun` is the beginning that the page has to have: another one came up meanwhile if it has not."""
    query = {"after": str(after)} | ({"state_after": str(state_after)} if state_after else {})
    page: dict[str, Any] = client.call("GET", "audit", "export", query=query, timeout_s=PAGE_TIMEOUT_S)
    if begun is not ... and page["begin"] != begun:
        raise CliError("log: rows were retired while it was exported; export it again", UNREACHABLE)
    return page


def _state_line(row: str) -> export.StateLine:
    return export.StateLine(row=row)


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
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--trust-sha256", metavar="HEX", help="Of the deployment's trust set, as its join tokens carry it.")
@click.option("--noted", metavar=NOTED, help="A row and its hash that you noted before: the log has to reach it.")
@click.option(
    "--held", type=click.Path(path_type=Path), metavar="FILE",
    help="The checkpoint in a gateway's state folder: the log has to contain it.",
)  # fmt: skip
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
    files: tuple[Path, ...], *, trust_sha256: str | None, noted: str | None, held: Path | None,
    against: Path | None, against_database: bool, against_stream: bool, output: str,
) -> None:  # fmt: skip
    """Check that FILE is the log and all of it; needs no server. Exit code 1 if anything does not fit.

    Of a log whose first rows were retired, give these exports too: they have to meet. Comparisons are of the newest.
    """
    known = _known(trust_sha256, noted)
    if held is not None:
        known = replace(known, held=_held(held))
    parts, between = checked(files, known)
    newest = Path(parts[-1].name)
    if against is not None:
        between += _against_file(newest, against)
    for flag, place in ((against_database, "database"), (against_stream, "stream")):
        if flag:
            between += _against_program(newest, place)
    tell(parts, between, output)
    if between or not all(part.report.good for part in parts):
        raise click.exceptions.Exit(FAILURE)


@audit.command()
@click.option("--before", required=True, metavar="TIME|SEQ", help="The first moment, or row, that stays in any case.")
@click.option("--to", "file", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The export.")
@click.option(
    "--witnesses", type=click.IntRange(1, 8), default=1, show_default=True,
    help="How many gateways have to have signed the checkpoint that covers the rows.",
)  # fmt: skip
@click.option("--trust-sha256", metavar="HEX", help="Of the deployment's trust set; another one is refused.")
def retire(before: str, file: Path, witnesses: int, trust_sha256: str | None) -> None:
    """Move old rows of the log out of the database into FILE, which is verified before they go.

    Runs on the control host: KAKUREMICHI_DATABASE_URL names the database. Whole partitions leave, if gateways vouch for
    them. The state there stays, so everything later can still be asked for. After a crash run it again as it was.
    """
    _known(trust_sha256, None)
    argv = ["--before", before, "--to", str(file), "--witnesses", str(witnesses), "--trust-sha256", trust_sha256 or ""]
    click.echo(plain(_program("retire", *argv).strip()))


def _known(trust_sha256: str | None, noted: str | None) -> Known:
    seq, _, digest = (noted or "0:").partition(":")
    try:
        return Known(bytes.fromhex(trust_sha256 or ""), int(seq), bytes.fromhex(digest))
    except ValueError as error:
        raise CliError(f"--trust-sha256 HEX, --noted {NOTED}: with hexadecimal digits", USAGE) from error


def _held(file: Path) -> bytes:
    try:
        raw = file.read_bytes()
        size_of_held(raw)
    except (OSError, AuthorityError) as error:
        raise CliError(f"{file}: {error}", USAGE) from error
    return raw


def _against_file(file: Path, other: Path) -> list[Finding]:
    with sentences(other), file.open("rb") as ours, other.open("rb") as theirs:
        return list(compare(export.rows(ours), export.rows(theirs), names=(str(file), str(other))))


def _against_program(file: Path, place: str) -> list[Finding]:
    """They print a finding a line."""
    return [Finding(0, 0, "", line) for line in _program("against", place, str(file)).splitlines()]


def _program(name: str, *words: str) -> str:
    """What a program of the registry's prints: only these know its tables, and its stream."""
    argv = [sys.executable, "-m", f"kakuremichi_registry.{name}", *words]
    done = subprocess.run(argv, env=os.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        raise CliError(said[-1], USAGE if done.returncode == USAGE else FAILURE)
    return done.stdout
