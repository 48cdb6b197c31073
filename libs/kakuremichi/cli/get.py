"""`kakuremichi get KIND` and `kakuremichi describe KIND NAME`."""

from typing import Any

import click

from kakuremichi.cli.kinds import KINDS, kind_named
from kakuremichi.cli.options import complete_names, output_option, with_client
from kakuremichi.cli.output import print_fields, print_json, print_names, print_table

ONE_OR_MANY = click.Choice([*KINDS, *(kind.removesuffix("s") for kind in KINDS)])


@click.command()
@click.argument("kind", type=ONE_OR_MANY)
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="Events: how many.")
@output_option
@with_client
def get(client: Any, kind: str, limit: int, output: str) -> None:
    """List gateways, agents, services, tokens or events (newest last)."""
    shown = kind_named(kind)
    query = {"limit": str(limit), "newest_first": "true"} if shown.plural == "events" else {}
    items = client.list(shown.plural, **query)
    print_items(shown.plural, items[::-1] if query else items, output)


@click.command()
@click.argument("kind", type=ONE_OR_MANY)
@click.argument("name", shell_complete=complete_names())
@output_option
@with_client
def describe(client: Any, kind: str, name: str, output: str) -> None:
    """Show one thing whole, with its errors."""
    shown = kind_named(kind)
    item = client.call("GET", shown.plural, name)
    if output == "json":
        print_json(item)
    elif output == "name":
        print_names([str(item[shown.key])])
    else:
        print_fields(shown.described(item))


def print_items(plural: str, items: list[dict[str, Any]], output: str) -> None:
    kind = KINDS[plural]
    if output == "json":
        print_json({"items": items})
    elif output == "name":
        print_names([str(item[kind.key]) for item in items])
    else:
        print_table(kind.head, [kind.row(item) for item in items])
