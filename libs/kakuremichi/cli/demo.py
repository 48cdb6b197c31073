"""`kakuremichi demo`: the whole system in the lab, on this machine."""

import asyncio
import os
import shutil
import socket
import sys
import time
from collections.abc import Coroutine
from pathlib import Path

import click
import msgspec

from kakuremichi.fleet.api import ApiError
from kakuremichi.fleet.control_plane import ControlPlaneError
from kakuremichi.fleet.lab_fleet import PORTAL_PORT, SERVICES, Fleet, FleetError, fleet_in
from kakuremichi.fleet.visitor import Fetch, fetch_all
from kakuremichi.lab.internet import Lab
from kakuremichi.lab.namespaces import LabError
from kakuremichi.lab.programs import ProgramMissingError
from kakuremichi.lab.units import Unit, UnitError

DIRECTORY = Path("/run/kakuremichi-demo")
PREFIX = "kk-"
PORTS = range(8080, 8100)


class Summary(msgspec.Struct, frozen=True):
    """What `demo once --json` prints."""

    ok: bool
    fetches: list[Fetch]
    seconds: float


@click.group()
def demo() -> None:
    """The whole system in a small internet on this machine. Needs root."""


@demo.command()
def up() -> None:
    """Start everything, publish four services, fetch them through every gateway, and leave it running."""
    _need_root()
    ok, _ = _perform(_up(leave=True))
    sys.exit(0 if ok else 1)


@demo.command()
@click.option("--json", "as_json", is_flag=True, help="Also print the result as one JSON line.")
def once(*, as_json: bool) -> None:
    """The same, then take everything down. Exit status 0 only if every fetch worked."""
    _need_root()
    began = time.monotonic()
    ok, fetches = _perform(_up(leave=False))
    if as_json:
        summary = Summary(ok, fetches, round(time.monotonic() - began, 1))
        click.echo(msgspec.json.encode(summary).decode())
    sys.exit(0 if ok else 1)


@demo.command()
def down() -> None:
    """End it and remove what it made; a second time does nothing."""
    _need_root()
    asyncio.run(_down())
    _say("the demo is down")


def _perform(work: Coroutine[None, None, tuple[bool, list[Fetch]]]) -> tuple[bool, list[Fetch]]:
    try:
        return asyncio.run(work)
    except (LabError, UnitError, ProgramMissingError, FleetError, ControlPlaneError, ApiError) as error:
        raise click.ClickException(str(error)) from error


async def _up(*, leave: bool) -> tuple[bool, list[Fetch]]:
    await _down()
    lab = Lab(PREFIX)
    _say("building the lab")
    lab.up()
    done = False
    try:
        async with fleet_in(lab, DIRECTORY, _say) as fleet:
            await fleet.start_control_plane()
            await fleet.start_nodes()
            await fleet.publish()
            _say("fetching every service through every gateway")
            fetches = await asyncio.to_thread(fetch_all, lab, SERVICES)
            _print_table(fetches)
            if leave:
                await _open_door(fleet)
            done = leave
    finally:
        if not done:
            _say("taking it down")
            await _down()
    return all(fetch.ok for fetch in fetches), fetches


async def _open_door(fleet: Fleet) -> None:
    port = _free_port()
    namespace, address = fleet.lab.namespace("control"), fleet.lab.address("control")
    door = ("--listen", f"127.0.0.1:{port}", "--namespace", namespace, "--to", f"{address}:{PORTAL_PORT}")
    argv = (sys.executable, "-m", "kakuremichi.lab.doorway", *door)
    await fleet.units.start(Unit(name="doorway", argv=argv))
    url, token, ca = f"https://127.0.0.1:{port}", fleet.control.token_file, fleet.control.ca_file
    program = _program()
    click.echo(f"""
The demo is running.

  portal       {url}   (sign in under "With an API token": {token.read_text().strip()})
               your browser does not know the demo's own CA, {ca}, and says so
  as a client  export KAKUREMICHI_URL={url} KAKUREMICHI_TOKEN_FILE={token} KAKUREMICHI_CA_FILE={ca}

Try next:
  {program} status
  {program} get services
  {program} lab exec visitor -- curl -s http://web-a.lab.test/hello
  {program} lab exec visitor -- curl -sk https://web-b.lab.test/hello
  {program} service publish wiki --http wiki.lab.test --to site-a:8080
  {program} lab exec visitor -- curl -s --resolve wiki.lab.test:80:203.0.113.2 http://wiki.lab.test/
  {program} get events

End it with: make demo-down""")


def _program() -> str:
    """This very command as it can be typed here."""
    called = Path(sys.argv[0])
    return str(called.relative_to(Path.cwd()) if called.is_relative_to(Path.cwd()) else called)


async def _down() -> None:
    if (DIRECTORY / "keeper" / "keeper.sock").exists():
        async with fleet_in(Lab(PREFIX), DIRECTORY) as fleet:
            await fleet.units.down()
    Lab(PREFIX).down()
    shutil.rmtree(DIRECTORY, ignore_errors=True)


def _free_port() -> int:
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise click.ClickException(f"ports {PORTS.start} to {PORTS.stop - 1} on 127.0.0.1 are all taken; free one")


def _print_table(fetches: list[Fetch]) -> None:
    from rich.console import Console  # noqa: PLC0415  # only here: it costs 30 ms of every start
    from rich.table import Table  # noqa: PLC0415

    table = Table(title="what the visitor gets")
    for column in ("service", "through", "answered by", "ms", ""):
        table.add_column(column)
    for fetch in fetches:
        outcome = "[green]ok[/]" if fetch.ok else f"[red]failed[/] {fetch.error}"
        table.add_row(fetch.service, fetch.gateway, fetch.answered_by, f"{fetch.ms:g}", outcome)
    Console(stderr=True).print(table)


def _say(text: str) -> None:
    click.echo(f"demo: {text}", err=True)


def _need_root() -> None:
    if os.geteuid() != 0:
        raise click.ClickException("the demo builds network namespaces and needs root: go on with `sudo make demo`")
