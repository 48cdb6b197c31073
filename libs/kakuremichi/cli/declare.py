"""`kakuremichi apply`, `diff -f` and `export`: the whole fleet's services as one file."""

import sys
from pathlib import Path
from typing import Any

import click

from kakuremichi.cli.applied import wait_options
from kakuremichi.cli.apply import Applying, Done, standing_services
from kakuremichi.cli.exits import PARTIAL, USAGE, CliError
from kakuremichi.cli.options import output_option, with_client
from kakuremichi.cli.output import plain, print_json, print_names, talk
from kakuremichi.cli.plan import print_changes
from kakuremichi.declarative.diff import Remove, Step, steps_between
from kakuremichi.declarative.fleet_file import FleetFile, parse, source_fault, write
from kakuremichi.declarative.spec import BY_HAND
from kakuremichi.declarative.strict_yaml import MOST_BYTES, FileRefusedError

_file = click.option("-f", "--file", "path", required=True, metavar="FILE", help="The file; - is standard input.")
_source = click.option("--source", metavar="NAME", help="Whose services these are; else the file's `source`.")
_adopt = click.option(
    "--adopt", multiple=True, metavar="SOURCE",
    help=f"Take over services of this other source; `{BY_HAND}` are those that no file has declared.",
)  # fmt: skip


@click.command()
@_file
@_source
@_adopt
@click.option("--dry-run", is_flag=True, help="Print the plan, write nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before services are removed.")
@wait_options
@output_option
@with_client
def apply(
    client: Any, *, path: str, source: str | None, adopt: tuple[str, ...], dry_run: bool, yes: bool, wait: bool,
    timeout_s: float, output: str,
) -> None:  # fmt: skip
    """Make the services of one source what a file says.

    What the file no longer names is removed. Services of other sources, or published by hand, are never touched: a
    name that one of them has is a conflict, unless --adopt says so.

    \b
    kakuremichi apply -f fleet.yaml --dry-run
    kakuremichi apply -f fleet.yaml
    """
    applying, steps = _prepare(client, path, source, adopt)
    removals = [step.name for step in steps if isinstance(step, Remove)]
    if removals and not (dry_run or yes) and sys.stdin.isatty():
        click.confirm(f"Remove {len(removals)} services: {', '.join(removals)}?", abort=True, err=True)
    done = applying.plan(steps) if dry_run else applying.run(steps, wait_s=timeout_s if wait else None)
    _print(done, output)
    _end(done)


@click.command()
@_file
@_source
@_adopt
@click.option("--exit-code", is_flag=True, help="End with 1 if there is a difference.")
@output_option
@with_client
def diff(client: Any, *, path: str, source: str | None, adopt: tuple[str, ...], exit_code: bool, output: str) -> None:
    """Print what `apply` would do, and what would change on which node."""
    applying, steps = _prepare(client, path, source, adopt)
    done = applying.plan(steps)
    _print(done, output)
    _end(done)
    if exit_code and any(one.changed for one in done):
        raise click.exceptions.Exit(1)


@click.command()
@click.option("--source", metavar="NAME", help="Only its services; else all, and the file names no source.")
@with_client
def export(client: Any, source: str | None) -> None:
    """Print the services that there are as a file for `apply`."""
    standing = standing_services(client)
    chosen = {name: one.spec for name, one in standing.items() if source is None or one.source == source}
    click.echo(write(FleetFile(source or "", chosen)), nl=False)
    owners = {one.source or BY_HAND for one in standing.values()}
    if source is None and len(owners) > 1:
        talk(f"services of {', '.join(sorted(owners))}; --source NAME exports those of one")


def _prepare(client: Any, path: str, source: str | None, adopt: tuple[str, ...]) -> tuple[Applying, tuple[Step, ...]]:
    file = _read(path)
    source = source or file.source
    if not source:
        raise CliError(
            f"{path}: says no `source`, and --source is not given: whose services are these? Write `source: homelab`",
            USAGE,
        )
    if fault := source_fault(source):
        raise CliError(fault, USAGE)
    taken = frozenset("" if name == BY_HAND else name for name in adopt)
    steps = steps_between(standing_services(client), file.services, source, adopt=taken)
    return Applying(client, source), steps


def _read(path: str) -> FleetFile:
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(MOST_BYTES + 1)
        return parse(data, path)
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}", USAGE) from error
    except FileRefusedError as error:
        first, *others = str(error).splitlines()
        raise CliError(first, USAGE, tuple(others)) from error


def _print(done: tuple[Done, ...], output: str) -> None:
    if output == "json":
        print_json({"items": [one.shown() for one in done]})
    elif output == "name":
        print_names([one.name for one in done if one.changed])
    else:
        for one in done:
            if not one.error:
                click.echo(plain(one.sentence))
                print_changes(one.changes)
        counts = (sum(one.changed for one in done), sum(bool(one.error) for one in done))
        click.echo(f"{counts[0]} changed, {counts[1]} refused" if done else "nothing to change")
    for one in done:
        if one.error:
            talk(f"{one.name}: {one.error}")
        elif one.late:
            talk(f"{one.name}: not yet applied by {', '.join(one.late)}")


def _end(done: tuple[Done, ...]) -> None:
    """0; 7 if only a part was done, or is not applied yet; the code of the first refusal if nothing was."""
    failed = [one for one in done if one.error]
    if failed and not any(one.changed for one in done):
        raise click.exceptions.Exit(failed[0].exit_code)
    if failed or any(one.late for one in done):
        raise click.exceptions.Exit(PARTIAL)
