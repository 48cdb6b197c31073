"""`kakuremichi lab`: a small internet of network namespaces to try things in."""

import os

import click

from kakuremichi.lab.internet import DEFAULT_PREFIX, Lab
from kakuremichi.lab.namespaces import LabError
from kakuremichi.lab.topology import DOMAIN, UnknownHostError

_prefix = click.option("--prefix", default=DEFAULT_PREFIX, show_default=True, help="Tells several labs apart.")


@click.group()
def lab() -> None:
    """A small internet on this machine: visitors, gateways, sites behind NAT. Needs root."""


@lab.command()
@_prefix
@click.option("--foreign", is_flag=True, help="Give one gateway and one site somebody else's firewall.")
def up(prefix: str, *, foreign: bool) -> None:
    """Build it; a second time does nothing."""
    try:
        Lab(prefix).up(foreign=foreign)
    except LabError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"lab {prefix} is up; try: kakuremichi lab exec visitor -- ping -c1 gw1.{DOMAIN}")


@lab.command()
@_prefix
def down(prefix: str) -> None:
    """Remove it and end every process inside; a second time does nothing."""
    try:
        Lab(prefix).down()
    except LabError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"lab {prefix} is down")


@lab.command()
@_prefix
def status(prefix: str) -> None:
    """Its hosts and their addresses; exit code 1 when it is not up."""
    try:
        internet = Lab(prefix)
    except LabError as error:
        raise click.ClickException(str(error)) from error
    if not internet.is_up():
        click.echo(f"lab {prefix} is not up")
        raise SystemExit(1)
    for host in internet.topology.hosts:
        click.echo(f"{host.name:<10} {internet.address(host.name):<16} {internet.namespace(host.name)}")


@lab.command("exec", context_settings={"allow_interspersed_args": False})
@_prefix
@click.argument("host")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD...")
def execute(prefix: str, host: str, argv: tuple[str, ...]) -> None:
    """Run CMD on HOST; its exit code is ours."""
    try:
        internet = Lab(prefix)
        command = internet.command(host, argv[1:] if argv[0] == "--" else argv)
        if not internet.is_up():
            raise click.ClickException(f"lab {prefix} is not up: run 'kakuremichi lab up' first")
    except (LabError, UnknownHostError) as error:
        raise click.ClickException(str(error)) from error
    os.execvp(command[0], command)  # noqa: S606  (the command takes our place: terminal, signals and exit code are its own)
