"""`kakuremichi up` and `down`: the control plane of a single server, kept running by its keeper."""

import asyncio
import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import click

from kakuremichi.bus.config import TlsFiles
from kakuremichi.cli.client import Client
from kakuremichi.cli.context import resolve, save_context
from kakuremichi.cli.exits import CliError
from kakuremichi.fleet.control_plane import ControlPlane, ControlPlaneError, Options
from kakuremichi.lab.keeper_client import Units
from kakuremichi.lab.units import UnitError
from kakuremichi.runtime.tls import context_for

READY_S = 60.0


def _default_directory() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/kakuremichi/control")
    return Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local/state")) / "kakuremichi/control"


_directory = click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=_default_directory,
    help="Secrets, data and logs of the control plane.  [default: /var/lib/kakuremichi/control, or below your home]",
)


@click.command(context_settings={"show_default": True})
@_directory
@click.option("--address", default="127.0.0.1", help="Where nodes reach this server; it also listens there.")
@click.option("--portal-port", default=8080, type=click.IntRange(1, 65535))
@click.option("--nats-port", default=4222, type=click.IntRange(1, 65535))
@click.option("--nats-url", envvar="NATS_URL", default="", help="A NATS of your own instead of the embedded one.")
@click.option("--database-url", envvar="DATABASE_URL", default="", help="A PostgreSQL of your own, likewise.")
@click.option(
    "--tls-certificate",
    type=click.Path(path_type=Path),
    help="A certificate of your own, PEM with its chain, for portal and NATS, instead of the deployment's own CA.",
)
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its key.")
@click.option("--insecure-loopback", is_flag=True, help="No TLS; refused unless everything stays on 127.0.0.1.")
@click.option(
    "--trust", type=click.Path(path_type=Path), help="The server folder by `trust init`: the trust keys lie elsewhere."
)
@click.option("--foreground", is_flag=True, help="Stay, and stop everything at SIGTERM: for systemd and containers.")
def up(
    directory: Path,
    address: str,
    portal_port: int,
    nats_port: int,
    *,
    nats_url: str,
    database_url: str,
    tls_certificate: Path | None,
    tls_key: Path | None,
    insecure_loopback: bool,
    trust: Path | None,
    foreground: bool,
) -> None:
    """Run registry, keyring and portal on this server, with NATS and PostgreSQL unless you name your own."""
    options = Options(
        directory=directory.absolute(),
        portal_listen=f"{address}:{portal_port}",
        portal_url=f"{'http' if insecure_loopback else 'https'}://{address}:{portal_port}",
        nats_listen=f"{address}:{nats_port}",
        node_nats_url=nats_url or f"{'nats' if insecure_loopback else 'tls'}://{address}:{nats_port}",
        nats_url=nats_url,
        database_url=database_url,
        tls=_own_certificate(tls_certificate, tls_key),
        plain=insecure_loopback,
        trust=trust,
    )
    try:
        asyncio.run(_up(ControlPlane(options), foreground=foreground))
    except (ControlPlaneError, UnitError) as error:
        raise click.ClickException(str(error)) from error


def _own_certificate(certificate: Path | None, key: Path | None) -> TlsFiles | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise click.UsageError("--tls-certificate and --tls-key: both are needed, or none")
    return TlsFiles(certificate.absolute(), key.absolute())


@click.command()
@_directory
def down(directory: Path) -> None:
    """Stop what `up` started; a second time does nothing. Gateways and agents go on as they are."""
    try:
        stopped = asyncio.run(_down(directory.absolute()))
    except UnitError as error:
        raise click.ClickException(str(error)) from error
    click.echo("the control plane is down" if stopped else "the control plane was not running", err=True)


async def _up(control: ControlPlane, *, foreground: bool) -> None:
    await asyncio.to_thread(control.prepare)
    async with Units(_keeper(control.directory)) as units:
        await units.start_all(control.units())
        await _portal_ready(control)
        context = save_context(control.options.portal_url, control.token_file, control.ca_file)
        setup = await asyncio.to_thread(_setup_link, control)
        click.echo(f"""
The control plane is running.

  portal   {control.options.portal_url}
{setup}  token    {control.token_file}   (the first administrator's, for the command line)
  CA       {control.ca_file or "that of your own certificate"}   (join tokens name it; for your browser)
  context  {context}   (so that `kakuremichi status` finds them)

Next: kakuremichi token create --role gateway --name gw1""")
        if foreground:
            await _until_signal()
            await units.down()


def _setup_link(control: ControlPlane) -> str:
    """A line with the link to the first account; empty once there is one, or without the first token."""
    try:
        context = resolve(control.options.portal_url, control.token_file, control.ca_file)
        made = Client(context).call("POST", "setup-codes")
    except CliError:
        return ""
    return f"  setup    {made['url']}   (makes the first account; once, within an hour)\n"


async def _portal_ready(control: ControlPlane) -> None:
    deadline = time.monotonic() + READY_S
    while not await asyncio.to_thread(_answers, f"{control.options.portal_url}/readyz", control.ca_file):
        if time.monotonic() > deadline:
            raise ControlPlaneError(
                f"portal: not ready within {READY_S:.0f} s, see the logs in {control.directory}/log"
            )
        await asyncio.sleep(0.1)


def _answers(url: str, ca_file: Path | None) -> bool:
    try:
        tls = context_for((url,), ca_file)
        with urllib.request.urlopen(url, timeout=2, context=tls) as answer:  # noqa: S310  # our own address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


async def _until_signal() -> None:
    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    await stop.wait()


async def _down(directory: Path) -> bool:
    if not (_keeper(directory) / "keeper.sock").exists():
        return False
    async with Units(_keeper(directory)) as units:
        await units.down()
    return True


def _keeper(directory: Path) -> Path:
    return directory / "keeper"
