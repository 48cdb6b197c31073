"""`kakuremichi api-token`: who may call the portal's API."""

from operator import itemgetter
from pathlib import Path
from typing import Any

import click

from kakuremichi.cli.options import limit_options, output_option, with_client
from kakuremichi.cli.output import Columns, print_listed, talk
from kakuremichi.runtime.files import write_atomically

COLUMNS: Columns = {
    "NAME": itemgetter("name"), "SCOPE": itemgetter("scope"), "BEGINS WITH": itemgetter("prefix"),
    "EXPIRES": lambda item: item["expires_at"] or "never", "STATE": itemgetter("state"),
}  # fmt: skip


@click.group("api-token")
def api_token() -> None:
    """Make the tokens with which people and programs call the API."""


@api_token.command()
@click.argument("name")
@click.option("--scope", type=click.Choice(["read", "publish", "admin"]), default="read", show_default=True)
@click.option("--days", type=click.IntRange(1, 3650), default=90, show_default=True, help="It expires after so many.")
@limit_options
@click.option("--to", type=click.Path(path_type=Path), metavar="FILE", help="Write it there (0600), not to the screen.")
@with_client
def create(
    client: Any, *, name: str, scope: str, days: int, pools: tuple[str, ...], agents: tuple[str, ...], to: Path | None
) -> None:
    """Print a token once: read looks, publish changes services too, admin everything.

    \b
    kakuremichi api-token create deploy --scope publish --days 30 --to deploy.token
    """
    body = {"name": name, "scope": scope, "days": days, "pools": pools, "agents": agents}
    answer = client.call("POST", "api-tokens", body=body)
    if to is None:
        click.echo(answer["token"])
    else:
        write_atomically(to, answer["token"].encode() + b"\n")
    talk(f"{name} may {scope} with it until {answer['expires_at']}; it is not shown again")


@api_token.command("list")
@output_option
@with_client
def list_(client: Any, output: str) -> None:
    """List them by their first characters."""
    print_listed(client.list("api-tokens"), output, COLUMNS)


@api_token.command()
@click.argument("name")
@with_client
def remove(client: Any, name: str) -> None:
    """Take a token back; it is worth nothing from now on."""
    client.call("DELETE", "api-tokens", name)
    talk(f"api token {name} removed")
