"""What a dry run answers: one line for each change on each node."""

from collections.abc import Iterable
from typing import Any

import click

from kakuremichi.cli.output import plain, print_json, print_names, talk

SIGNS = {"add": "+", "change": "~", "remove": "-"}

dry_run_option = click.option("--dry-run", is_flag=True, help="Print what would change on which node, write nothing.")


def dry_run_query(query: dict[str, str], *, dry_run: bool) -> dict[str, str]:
    """There is nothing to wait for then."""
    return (
        {name: value for name, value in query.items() if name not in ("wait", "timeout")} | {"dry_run": "1"}
        if dry_run
        else query
    )


def print_plan(plan: dict[str, Any], output: str) -> None:
    if output == "json":
        print_json(plan)
    elif output == "name":
        print_names(sorted({change["node"] for change in plan["changes"]}))
    else:
        print_changes(plan["changes"])
        if not plan["changes"]:
            click.echo("no node has to change anything" if plan["changed"] else "everything is so already")
    if plan.get("left_out"):
        talk(f"and {plan['left_out']} more")


def print_changes(changes: Iterable[dict[str, Any]]) -> None:
    for one in changes:
        sign = SIGNS.get(one["action"], "?")
        click.echo(plain(f"  {sign} {one['node']}: {one['kind']} {one['key']} ({one['what']})"))
