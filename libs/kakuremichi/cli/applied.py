"""What became of a write, in one sentence: "applied on 3 of 3 gateways in 9 ms"."""

from typing import Any

import click

from kakuremichi.cli.exits import PARTIAL
from kakuremichi.cli.output import plain, print_json, talk

ANSWER_SLACK_S = 10.0  # on top of the wait, for the write itself


def wait_query(*, wait: bool, timeout_s: float) -> dict[str, str]:
    return {"wait": "applied", "timeout": f"{timeout_s:g}"} if wait else {}


def wait_options(command: Any) -> Any:
    seconds = click.FloatRange(0, 60, min_open=True)
    command = click.option(
        "--timeout", "timeout_s", type=seconds, default=5.0, show_default=True, metavar="SECONDS", help="Longest wait."
    )(command)
    return click.option(
        "--wait/--no-wait", default=True, show_default=True, help="Wait until the nodes have applied it."
    )(command)


def report(answer: dict[str, Any], done: str, output: str) -> None:
    """Print the answer to a write. Ends the command with 7 if a live node has not applied it in time."""
    if output == "json":
        print_json(answer)
    elif output == "name":
        click.echo(plain(answer["name"]))
    else:
        click.echo(plain(f"{done}: {sentence(answer)}" if "applied" in answer else done))
    for line in remarks(answer):
        talk(line)
    if answer.get("pending"):
        raise click.exceptions.Exit(PARTIAL)


def sentence(answer: dict[str, Any]) -> str:
    gateways = set(answer["gateways"])
    reached = [one for one in answer["applied"] if one["node"] in gateways]
    if not gateways:
        others = [*answer["applied"], *answer["pending"], *answer["offline"]]
        noun = "node" if len(others) == 1 else "nodes"
        return f"applied on {len(answer['applied'])} of {len(others)} {noun}{_within(answer['applied'])}"
    noun = "gateway" if len(gateways) == 1 else "gateways"
    return f"applied on {len(reached)} of {len(gateways)} {noun}{_within(reached)}"


def _within(reached: list[dict[str, Any]]) -> str:
    return f" in {max(one['ms'] for one in reached):.0f} ms" if reached else ""


def remarks(answer: dict[str, Any]) -> list[str]:
    """Who is missing and why; for the person, not part of the data."""
    why = {error["node"]: error["message"] for error in answer.get("errors", ())}
    late = [f"{node}: {why.get(node, 'not yet')}" for node in answer.get("pending", ())]
    return late + [f"{node}: offline, applies it when it returns" for node in answer.get("offline", ())]
