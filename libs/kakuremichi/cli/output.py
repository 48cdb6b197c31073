"""How answers are printed: tables for people, JSON and bare names for programs. Data on standard output."""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

FORMATS = ("table", "json", "name")
Columns = Mapping[str, Callable[[Any], object]]  # what stands in the column of this head
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_TONES = {
    "live": "green", "active": "green", "open": "green",
    "offline": "red", "no-target": "red", "expired": "red", "quarantined": "red", "revoked": "red",
}  # fmt: skip


def plain(value: object) -> str:
    """As text for a terminal: what came from elsewhere steers no terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(value))


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def print_names(names: Sequence[str]) -> None:
    for name in names:
        click.echo(plain(name))


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell; headers even when there are no rows."""
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(head), *cells]) for column in range(len(head))]
    for line in [list(head), *cells]:
        padded = [_painted(cell) + " " * (width - len(cell)) for cell, width in zip(line, widths, strict=True)]
        click.echo("  ".join(padded).rstrip(), color=_in_colour())


def print_listed(items: Sequence[Any], output: str, columns: Columns, key: str = "name") -> None:
    """A list of the API in one of `FORMATS`: as it came, the names alone, or a table of these columns."""
    if output == "json":
        print_json(items)
    elif output == "name":
        print_names([str(item[key]) for item in items])
    else:
        print_table(list(columns), [[cell(item) for cell in columns.values()] for item in items])


def print_fields(fields: Sequence[tuple[str, Any]]) -> None:
    """One field per line; a list has one line for each of its values."""
    width = max(len(name) for name, _ in fields) + len(":  ")
    for name, value in fields:
        lines = value if isinstance(value, list) else [value]
        for number, line in enumerate(lines or ["-"]):
            label = f"{name}:" if number == 0 else ""
            text = plain("-" if line in ("", None) else line)
            click.echo(f"{label:<{width}}{_painted(text)}".rstrip(), color=_in_colour())


def talk(sentence: str) -> None:
    """Something for the person and not for the pipe."""
    click.echo(plain(sentence), err=True)


def _in_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _painted(cell: str) -> str:
    tone = _TONES.get(cell)
    return click.style(cell, fg=tone) if tone and _in_colour() else cell
