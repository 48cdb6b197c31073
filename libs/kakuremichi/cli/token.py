"""`kakuremichi token`: join tokens."""

from typing import Any

import click

from kakuremichi.cli.options import with_client
from kakuremichi.cli.output import print_json, talk


@click.group()
def token() -> None:
    """Make the tokens with which nodes join."""


@token.command()
@click.argument("role", type=click.Choice(["gateway", "agent"]))
@click.argument("name")
@click.option("--pool", default="default", show_default=True)
@click.option("--ttl", type=click.IntRange(1, 3600), default=3600, show_default=True, metavar="SECONDS")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@with_client
def create(client: Any, *, role: str, name: str, pool: str, ttl: int, output: str) -> None:
    """Print a token with which one node, NAME, may join once. It is not shown again.

    \b
    kakuremichi token create agent site-a > site-a.token
    """
    answer = client.call("POST", "tokens", body={"role": role, "node": name, "pool": pool, "ttl_s": ttl})
    if output == "json":
        print_json(answer)
        return
    click.echo(answer["token"])
    talk(f"{role} {name} of pool {pool} may join with it once, until {answer['expires_at']}")
