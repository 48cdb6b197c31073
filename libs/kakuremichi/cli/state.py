"""`kakuremichi state`, `diff` and `replay`: what was true when."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from kakuremichi.cli.exits import FAILURE, USAGE, CliError
from kakuremichi.cli.output import plain, print_json, talk
from kakuremichi.cli.past import FromFile, Past, Shown, with_past

_output = click.option(
    "-o", "--output", type=click.Choice(["lines", "json"]), default="lines", show_default=True, help="How to print it."
)


@click.command()
@click.option("--at", "moment", default="now", metavar="TIME|SEQ", help="A time with its zone, or a row of the log.")
@_output
@with_past
def state(past: Past, moment: str, output: str) -> None:
    """Print every row of the truth as it was: canonical lines, which docs/audit.md defines.

    \\b
    kakuremichi state --at 2026-01-02T14:05Z
    kakuremichi state --at 1234 --from log.jsonl
    """
    print_state(past.state(moment), output)


def print_state(shown: Shown, output: str) -> None:
    if output == "json":
        print_json({"place": shown.place, "rows": [json.loads(line) for line in shown.lines]})
        return
    for line in shown.lines:
        click.echo(plain(line))
    talk(f"{where(shown.place)}: {shown.place['count']} rows, SHA-256 {shown.place['digest']}")


def where(place: dict[str, Any]) -> str:
    return f"after row {place['seq']} of {place['at'] or 'nothing'}"


@click.command()
@click.argument("since", metavar="TIME|SEQ")
@click.argument("until", metavar="[TIME|SEQ]", default="now")
@_output
@with_past
def diff(past: Past, since: str, until: str, output: str) -> None:
    """Print what is different between two moments, and the last event that had to do with each row.

    \\b
    kakuremichi diff 2026-01-02T14:05Z now
    kakuremichi diff 1200 1234 --from log.jsonl
    """
    found = past.diff(since, until)
    if output == "json":
        print_json({"since": found.since, "until": found.until, "changes": found.changes})
        return
    for change in found.changes:
        for line in change_lines(change):
            click.echo(plain(line))
    talk(f"{where(found.since)} → {where(found.until)}: {len(found.changes)} rows are different")


def change_lines(change: dict[str, Any]) -> list[str]:
    """`-` was, `+` is; what is only different inside is one line of `~`."""
    before, after, by = change["before"], change["after"], change["by"]
    who = f"    ({by['topic']} by {by['actor']}, row {by['seq']} of {by['at']})" if by else ""
    if before and after:
        names = [name for name in after if after[name] != before.get(name)]
        told = ", ".join(f"{name} {_short(before.get(name))} → {_short(after[name])}" for name in names)
        return [f"~ {_name(after)}: {told}{who}"]
    sign, row = ("+", after) if after else ("-", before)
    told = ", ".join(f"{name} {_short(value)}" for name, value in row.items() if name != "table" and value != "")
    return [f"{sign} {row['table']}: {told}{who}"]


def _name(row: dict[str, Any]) -> str:
    key = next(value for name, value in row.items() if name != "table")
    return f"{row['table']} {_short(key)}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--at", "moment", default="now", metavar="TIME|SEQ", help="Stop there; else at its end.")
@click.option(
    "--into", "database_url", envvar="SHADOW_DATABASE_URL", metavar="URL",
    help="Fill a second, empty registry database instead; else SHADOW_DATABASE_URL, which no process list shows.",
)  # fmt: skip
@_output
def replay(file: Path, moment: str, database_url: str | None, output: str) -> None:
    """Fold an export of the log into the state, and print it or fill a database with it. Needs no server.

    It believes the file: `kakuremichi audit verify FILE` first, if there is any doubt.
    """
    if database_url is None:
        print_state(FromFile(file).state(moment), output)
        return
    # A small program of the registry's: the command line knows nothing of its tables.
    argv = [sys.executable, "-m", "kakuremichi_registry.shadow", str(file), moment]
    done = subprocess.run(
        argv, env={**os.environ, "KAKUREMICHI_DATABASE_URL": database_url}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        raise CliError(said[-1], USAGE if done.returncode == USAGE else FAILURE)
    click.echo(plain(done.stdout.strip()))
