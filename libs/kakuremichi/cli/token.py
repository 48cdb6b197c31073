"""`kakuremichi token`: join tokens."""

import shlex
from typing import Any

import click

from kakuremichi.cli.options import with_client
from kakuremichi.cli.output import print_json, talk


@click.group()
def token() -> None:
    """Make the tokens with which nodes join."""


@token.command()
@click.option("--role", required=True, type=click.Choice(["gateway", "agent"]), help="What the node is to be.")
@click.option("--name", required=True, metavar="NAME", help="How it will be called.")
@click.option("--pool", default="default", show_default=True)
@click.option("--ttl", type=click.IntRange(1, 3600), default=3600, show_default=True, metavar="SECONDS")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@with_client
def create(client: Any, *, role: str, name: str, pool: str, ttl: int, output: str) -> None:
    """Print the line that makes a machine this node: run it there, once. It is not shown again.

    \b
    kakuremichi token create --role agent --name site-a
    """
    answer = client.call("POST", "tokens", body={"role": role, "node": name, "pool": pool, "ttl_s": ttl})
    if output == "json":
        print_json(answer)
        return
    click.echo(join_line(role, answer["token"]))
    talk(f"run it on the machine, as root: {role} {name} of pool {pool} joins once, until {answer['expires_at']}")


def join_line(role: str, token: str) -> str:
    """For any shell. `echo` is the shell's own: the token is in no command line and no environment."""
    return f"echo {shlex.quote(token)} | kakuremichi-{role} join"
