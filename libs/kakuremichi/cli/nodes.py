"""`kakuremichi gateway` and `kakuremichi agent`: list, remove, release from quarantine."""

import sys
from typing import Any

import click

from kakuremichi.cli.applied import ANSWER_SLACK_S, report, wait_options, wait_query
from kakuremichi.cli.get import print_items
from kakuremichi.cli.options import complete_names, output_option, with_client
from kakuremichi.cli.plan import dry_run_option, dry_run_query, print_plan


def _group(role: str, what: str) -> click.Group:
    group = click.Group(role, help=f"{what} List them, remove or release one.")

    @group.command("list")
    @output_option
    @with_client
    def list_(client: Any, output: str) -> None:
        print_items(f"{role}s", client.list(f"{role}s"), output)

    list_.help = f"List the {role}s."

    @group.command("remove")
    @click.argument("name", shell_complete=complete_names(f"{role}s"))
    @click.option("--cascade", is_flag=True, help="Also when services have their last target there; they stay.")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @dry_run_option
    @wait_options
    @output_option
    @with_client
    def remove(
        client: Any, name: str, *, cascade: bool, yes: bool, dry_run: bool, wait: bool, timeout_s: float, output: str
    ) -> None:
        if not (yes or dry_run) and sys.stdin.isatty():
            click.confirm(f"Remove {role} {name} and revoke its key?", abort=True, err=True)
        query = wait_query(wait=wait, timeout_s=timeout_s) | ({"cascade": "true"} if cascade else {})
        query = dry_run_query(query, dry_run=dry_run)
        answer = client.call("DELETE", f"{role}s", name, query=query, timeout_s=timeout_s + ANSWER_SLACK_S)
        if dry_run:
            print_plan(answer, output)
            return
        report(answer, f"{role} {name} removed", output)

    remove.help = f"Remove this {role} and revoke its key; it can join again with a new token only."

    @group.command("release")
    @click.argument("name", shell_complete=complete_names(f"{role}s"))
    @output_option
    @with_client
    def release(client: Any, name: str, output: str) -> None:
        report(client.call("POST", f"{role}s", name, "release"), f"{role} {name} released", output)

    release.help = f"End the quarantine of this {role}, once only one holder of its identity is left."
    return group


gateway = _group("gateway", "The public nodes that visitors reach.")
agent = _group("agent", "The nodes at the sites.")
