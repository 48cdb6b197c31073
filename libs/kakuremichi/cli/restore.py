"""`kakuremichi restore`: from the services as they are to those of an earlier moment, by ordinary writes."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from kakuremichi.cli.applied import ANSWER_SLACK_S
from kakuremichi.cli.client import Client
from kakuremichi.cli.context import resolve
from kakuremichi.cli.exits import CONFLICT, PARTIAL, USAGE, CliError
from kakuremichi.cli.options import portal_options
from kakuremichi.cli.output import plain, print_json, talk
from kakuremichi.cli.past import FromFile, FromPortal, Past, Shown
from kakuremichi.cli.restoring import Plan, Write, plan_of
from kakuremichi.cli.state import where


@click.command()
@click.option("--to", "moment", required=True, metavar="TIME|SEQ", help="A time with its zone, or a row of the log.")
@click.option("--plan", "only_plan", is_flag=True, help="Print what would be written, and write nothing: the default.")
@click.option("--apply", "apply", is_flag=True, help="Write it.")
@click.option("--planned-at", type=click.IntRange(0), metavar="SEQ", help="Refuse if the log has gone on since then.")
@click.option("--from", "file", type=click.Path(path_type=Path), metavar="FILE", help="Read that moment in an export.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@portal_options
def restore(
    *, moment: str, only_plan: bool, apply: bool, planned_at: int | None, file: Path | None, yes: bool, output: str,
    url: str | None, token_file: Path | None, ca_file: Path | None,
) -> None:  # fmt: skip
    """Bring the services back to what they were: each is published, replaced or unpublished like any other.

    Only services, and whose they are. Nodes and keys do not come back: a revoked key stays revoked, a node that is gone
    enrols again.

    \b
    kakuremichi restore --to 2026-01-02T14:05Z --plan
    kakuremichi restore --to 2026-01-02T14:05Z --apply --planned-at 1234
    """
    if apply and only_plan:
        raise CliError("--plan and --apply: one of the two", USAGE)
    client = Client(resolve(url, token_file, ca_file))
    portal = FromPortal(client)
    past: Past = FromFile(file) if file else portal
    then, now = past.state(moment), portal.state("now")
    if planned_at is not None and now.place["seq"] != planned_at:
        sentence = f"log: has gone on to row {now.place['seq']} since the plan at {planned_at}; look at a new plan"
        raise CliError(sentence, CONFLICT)
    plan = plan_of(then.lines, now.lines)
    if output == "json" and not apply:
        print_json({"to": then.place, "now": now.place, **plan.as_json()})
        return
    _print(plan, then, now)
    if apply and plan.writes:
        if not yes and sys.stdin.isatty():
            click.confirm(f"Write these {len(plan.writes)} changes?", abort=True, err=True)
        _apply(client, plan.writes)
    elif plan.writes:
        talk(f"nothing was written; add --apply --planned-at {now.place['seq']}")


def _print(plan: Plan, then: Shown, now: Shown) -> None:
    for write in plan.writes:
        click.echo(plain(str(write)))
    for sentence in plan.left:
        talk(sentence)
    talk(f"from {where(now.place)} back to {where(then.place)}: {len(plan.writes)} writes")


@dataclass
class _Outcome:
    done: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def _apply(client: Client, writes: tuple[Write, ...]) -> None:
    """One after another. What is refused because another has the place is tried again once others have moved."""
    outcome, left = _Outcome(), list(writes)
    while left:
        before, left = left, [write for write in left if not _written(client, write, outcome)]
        if len(left) == len(before):
            break
    talk(f"{outcome.done} of {len(writes)} written")
    if left:
        hints = tuple(outcome.refused[write.name] for write in left)
        raise CliError(f"{len(left)} services are not as they were", PARTIAL, hints)


def _written(client: Client, write: Write, outcome: _Outcome) -> bool:
    try:
        method: str = "DELETE" if write.body is None else "PUT"
        body: dict[str, Any] | None = write.body
        query = {"adopt": write.adopt} if write.adopt else {}
        client.call(method, "services", write.name, body=body, query=query, timeout_s=ANSWER_SLACK_S)
    except CliError as error:
        outcome.refused[write.name] = f"{write.name}: {error.message}"
        return False
    outcome.done += 1
    return True
