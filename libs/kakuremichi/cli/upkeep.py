"""`kakuremichi revoke` and `rotate`: by the node's name alone, which no two nodes share."""

import sys
import time
from typing import Any

import click

from kakuremichi.cli.applied import ANSWER_SLACK_S, report, wait_options, wait_query
from kakuremichi.cli.exits import NOT_FOUND, PARTIAL, CliError
from kakuremichi.cli.options import output_option, with_client
from kakuremichi.cli.output import plain, print_json
from kakuremichi.cli.plan import dry_run_option, dry_run_query, print_plan

POLL_S = 0.2


@click.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@dry_run_option
@wait_options
@output_option
@with_client
def revoke(client: Any, name: str, *, yes: bool, dry_run: bool, wait: bool, timeout_s: float, output: str) -> None:
    """Cut the gateway or agent NAME off: from the bus, from every peer, and from coming back.

    Connections through it end. Its services stay, without a target there. `agent remove` frees its name afterwards.
    """
    role = role_of(client, name)
    if not (yes or dry_run) and sys.stdin.isatty():
        click.confirm(f"Revoke {role} {name} for ever and end its connections?", abort=True, err=True)
    query = dry_run_query(wait_query(wait=wait, timeout_s=timeout_s), dry_run=dry_run)
    answer = client.call("POST", f"{role}s", name, "revoke", query=query, timeout_s=timeout_s + ANSWER_SLACK_S)
    if dry_run:
        print_plan(answer, output)
        return
    report(answer, f"{role} {name} revoked", output)


@click.command()
@click.argument("name")
@wait_options
@output_option
@with_client
def rotate(client: Any, name: str, *, wait: bool, timeout_s: float, output: str) -> None:
    """Give the gateway or agent NAME a new WireGuard key. Its services go on."""
    role = role_of(client, name)
    before = client.call("GET", f"{role}s", name)
    answer = client.call("POST", f"{role}s", name, "rotate", timeout_s=timeout_s + ANSWER_SLACK_S)
    if not wait:
        report(answer, f"{role} {name}: asked for a new key", output)
        return
    after = _await_new_key(client, role, before, timeout_s)
    if output == "json":
        print_json(after)
    elif output == "name":
        click.echo(plain(name))
    else:
        click.echo(plain(f"{role} {name} rotated: its key is {after['public_key']}, epoch {after['epoch']}"))


def role_of(client: Any, name: str) -> str:
    """agent or gateway; :class:`CliError` if there is none of this name."""
    for role in ("agent", "gateway"):
        try:
            client.call("GET", f"{role}s", name)
        except CliError as error:
            if error.exit_code != NOT_FOUND:
                raise
        else:
            return role
    raise CliError(f"{name}: there is no gateway or agent of this name", NOT_FOUND)


def _await_new_key(client: Any, role: str, before: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while True:
        now: dict[str, Any] = client.call("GET", f"{role}s", before["name"])
        if now["public_key"] != before["public_key"]:
            return now
        if time.monotonic() > deadline:
            sentence = f"{role} {before['name']}: asked, and no new key within {timeout_s:g} s; it comes when it can"
            raise CliError(sentence, PARTIAL)
        time.sleep(POLL_S)
