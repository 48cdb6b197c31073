"""`kakuremichi account` and `kakuremichi session`: who may sign in to the portal, and who is signed in."""

from operator import itemgetter
from pathlib import Path
from typing import Any

import click

from kakuremichi.cli.options import limit_options, output_option, with_client
from kakuremichi.cli.output import Columns, print_listed, talk

ROLES = click.Choice(["viewer", "publisher", "admin"])
_password_file = click.option(
    "--password-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
    help="Its first line is the password; else you are asked.",
)  # fmt: skip


@click.group()
def account() -> None:
    """Say who signs in to the portal with a password: viewer, publisher or admin."""


@account.command()
@click.argument("name")
@click.option("--role", type=ROLES, default="viewer", show_default=True)
@click.option("--label", default="", help="What people call whoever has it.")
@limit_options
@_password_file
@with_client
def create(client: Any, *, name: str, password_file: Path | None, **fields: Any) -> None:
    """Make an account; its password has 12 characters or more.

    \b
    kakuremichi account create hana --role publisher --pool main --agent site-a
    """
    client.call("POST", "accounts", body={"name": name, "password": _password(password_file), **fields})
    talk(f"account {name} made")


@account.command("list")
@output_option
@with_client
def list_(client: Any, output: str) -> None:
    """List them."""
    columns: Columns = {
        "NAME": itemgetter("name"), "ROLE": itemgetter("role"),
        "STATE": lambda item: "disabled" if item["disabled"] else item["kind"],
        "LIMITS": lambda item: ", ".join(_limits(item)) or "all",
    }  # fmt: skip
    print_listed(client.list("accounts"), output, columns)


def _limits(item: Any) -> list[str]:
    return [*(f"pool {pool}" for pool in item["pools"]), *(f"agent {agent}" for agent in item["agents"])]


@account.command()
@click.argument("name")
@click.option("--role", type=ROLES)
@click.option("--label")
@click.option("--pool", "pools", multiple=True, help="Only these from now on; `--pool ''` is all.")
@click.option("--agent", "agents", multiple=True, help="Likewise.")
@click.option("--disable/--enable", "disabled", default=None, help="Whether it may not sign in.")
@with_client
def change(client: Any, *, name: str, **given: Any) -> None:
    """Change what is given; the rest stays. Whoever is signed in with it has to sign in again."""
    body = {key: client.call("GET", "accounts", name)[key] for key in ("role", "label", "pools", "agents", "disabled")}
    changes = {key: value for key, value in given.items() if value not in (None, ())}
    for key in ("pools", "agents"):
        if key in changes:
            changes[key] = [text for text in changes[key] if text]
    client.call("PUT", "accounts", name, body=body | changes)
    talk(f"account {name} changed")


@account.command()
@click.argument("name")
@_password_file
@with_client
def password(client: Any, *, name: str, password_file: Path | None) -> None:
    """Give it another password; its sessions end."""
    seen = client.call("GET", "accounts", name)
    body = {key: seen[key] for key in ("role", "label", "pools", "agents", "disabled")}
    client.call("PUT", "accounts", name, body=body | {"password": _password(password_file)})
    talk(f"account {name} has another password")


@account.command()
@click.argument("name")
@with_client
def remove(client: Any, name: str) -> None:
    """Remove it and end its sessions."""
    client.call("DELETE", "accounts", name)
    talk(f"account {name} removed")


def _password(file: Path | None) -> str:
    if file is None:
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return file.read_text().partition("\n")[0]


@click.group()
def session() -> None:
    """Look after the sessions of browsers."""


@session.command("list")
@output_option
@with_client
def sessions(client: Any, output: str) -> None:
    """List those that are open."""
    columns = ("id", "who", "method", "source", "opened_at", "seen_at")
    heads = {column.upper().replace("_AT", ""): itemgetter(column) for column in columns}
    print_listed(client.list("sessions"), output, heads, key="id")


@session.command()
@click.argument("session_id", metavar="ID")
@with_client
def end(client: Any, session_id: str) -> None:
    """End one; whoever it was has to sign in again."""
    client.call("DELETE", "sessions", session_id)
    talk(f"session {session_id} ended")
