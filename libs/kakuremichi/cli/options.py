"""Options that commands share."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path

import click

from kakuremichi.cli.context import resolve
from kakuremichi.cli.output import FORMATS

COMPLETE_WITHIN_S = 0.3  # a shell that waits for names feels broken


def portal_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which portal: `url`, `token_file`, `ca_file`."""
    for option in (
        click.option(
            "--ca-file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="The CA of the portal's certificate, PEM; else KAKUREMICHI_CA_FILE, else the context of `up`.",
        ),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Holds the API token; else KAKUREMICHI_TOKEN or KAKUREMICHI_TOKEN_FILE, else the context of `up`.",
        ),
        click.option("--url", metavar="URL", help="The portal; else KAKUREMICHI_URL, else the context of `up`."),
    ):
        command = option(command)
    return command  # fmt: skip


def with_client(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command a client of the portal as its first argument, and the options that say which portal."""

    @portal_options
    @wraps(command)
    def wrapped(*, url: str | None, token_file: Path | None, ca_file: Path | None, **given: object) -> None:
        from kakuremichi.cli.client import Client  # noqa: PLC0415  # HTTP takes 20 ms to import, --help needs none

        command(Client(resolve(url, token_file, ca_file)), **given)

    return wrapped


def limit_options(command: Callable[..., None]) -> Callable[..., None]:
    """What a role or a token is limited to: `pools`, `agents`."""
    command = click.option("--agent", "agents", multiple=True, help="Only this agent, likewise.")(command)
    return click.option("--pool", "pools", multiple=True, help="Only this pool; may be repeated. Else all.")(command)


output_option = click.option(
    "-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print it."
)


def complete_names(*kinds: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Shell completion with the names that the portal knows; silent when it does not answer at once."""

    def complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        from kakuremichi.cli.client import Client  # noqa: PLC0415

        wanted = kinds or (str(context.params.get("kind", "")).removesuffix("s") + "s",)
        try:
            known = resolve(context.params.get("url"), None, context.params.get("ca_file"))
            client = Client(known, timeout_s=COMPLETE_WITHIN_S)
            names = [str(item.get("name") or item.get("id")) for kind in wanted for item in client.list(kind)]
        except (click.ClickException, KeyError):
            return []
        return [name for name in names if name.startswith(incomplete)]

    return complete
