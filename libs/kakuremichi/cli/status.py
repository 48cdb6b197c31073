"""`kakuremichi status`: how everything is, on one screen."""

from typing import Any

import click

from kakuremichi.cli.kinds import KINDS
from kakuremichi.cli.options import with_client
from kakuremichi.cli.output import print_fields, print_json

SHOWN = ("gateways", "agents", "services")


@click.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@with_client
def status(client: Any, output: str) -> None:
    """Show how many gateways, agents and services there are, and what needs a look."""
    found = {plural: client.list(plural) for plural in SHOWN}
    needs = looks(found)
    if output == "json":
        counts = {plural: {"total": len(items), "good": _good(plural, items)} for plural, items in found.items()}
        print_json({**counts, "needs_a_look": needs})
        return
    words = {"services": "active"}
    counts_of = [
        (plural.capitalize(), f"{_good(plural, items)} of {len(items)} {words.get(plural, 'live')}")
        for plural, items in found.items()
    ]
    print_fields([*counts_of, ("Needs a look", needs or "nothing")])


def _good(plural: str, items: list[dict[str, Any]]) -> int:
    return sum(item["state"] == ("active" if plural == "services" else "live") for item in items)


def looks(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """One line for everything that is not as it should be."""
    lines = []
    for plural, items in found.items():
        singular = plural.removesuffix("s")
        for item in items:
            name = item[KINDS[plural].key]
            if item["state"] in ("offline", "no-target", "quarantined"):
                lines.append(f"{singular} {name}: {item['state']}")
            lines += [f"{singular} {name}: {_error(error)}" for error in item["errors"]]
            lines += [f"{singular} {name}: {warning}" for warning in item.get("warnings", ())]
    return lines


def _error(error: dict[str, Any]) -> str:
    return f"{error.get('node') or error.get('key')}: {error['message']}"
