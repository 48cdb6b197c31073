"""`kakuremichi service`: publish and unpublish."""

from dataclasses import dataclass
from typing import Any

import click

from kakuremichi.cli.applied import ANSWER_SLACK_S, report, wait_options, wait_query
from kakuremichi.cli.options import complete_names, output_option, with_client
from kakuremichi.cli.plan import dry_run_option, dry_run_query, print_plan
from kakuremichi.cli.service_options import option_flags, options_of


@dataclass(frozen=True, slots=True)
class Public:
    """Where visitors find the service: of `http` and `tls` the host, of `tcp` and `udp` the ports."""

    kind: str
    host: str = ""
    port: int = 0
    last_port: int = 0


@click.group()
def service() -> None:
    """Publish private services, and take them back."""


@service.command()
@click.argument("name")
@click.option("--http", metavar="HOST", help="By host name, HTTP and WebSocket.")
@click.option("--tls", metavar="HOST", help="By host name, TLS passed through.")
@click.option("--tcp", metavar="PORT[-LAST]", help="By TCP port or port range.")
@click.option("--udp", metavar="PORT[-LAST]", help="By UDP port or port range.")
@click.option(
    "--to",
    "targets",
    multiple=True,
    metavar="AGENT[=ADDRESS]:PORT",
    help="The private service: an address or name as the agent's site sees it; without one the agent itself. "
    "--tcp and --udp may leave out :PORT.",
)
@click.option("--path", "path_prefix", default="", metavar="PREFIX", help="--http: only below this path.")
@click.option("--allow", multiple=True, metavar="CIDR", help="Who may visit; repeatable, without it everybody.")
@click.option("--pool", default="default", show_default=True, help="Whose gateways carry it.")
@click.option("--create", is_flag=True, help="Fail if a service of this name exists instead of replacing it.")
@option_flags
@dry_run_option
@wait_options
@output_option
@with_client
def publish(
    client: Any, *, name: str, http: str | None, tls: str | None, tcp: str | None, udp: str | None,
    targets: tuple[str, ...], path_prefix: str, allow: tuple[str, ...], pool: str,
    create: bool, dry_run: bool, wait: bool, timeout_s: float, output: str, **more: Any,
) -> None:  # fmt: skip
    """Publish a service, or replace it whole.

    \b
    kakuremichi service publish wiki --http wiki.example.com --to site-a:8080
    kakuremichi service publish ssh --tcp 10022 --to site-b=192.168.2.130:22 --allow 198.51.100.0/24
    kakuremichi service publish api --http wiki.example.com --path /api --strip-prefix --to site-a=nas.lan:9000
    """
    public = public_of(http=http, tls=tls, tcp=tcp, udp=udp)
    body = {
        "name": name, "pool": pool, "kind": public.kind, "host": public.host, "path": path_prefix,
        "port": public.port, "last_port": public.last_port, "sources": list(allow),
        "targets": [target_of(text, public.port) for text in targets], "options": options_of(more),
    }  # fmt: skip
    method, where = ("POST", ("services",)) if create else ("PUT", ("services", name))
    query = dry_run_query(wait_query(wait=wait, timeout_s=timeout_s), dry_run=dry_run)
    answer = client.call(method, *where, body=body, query=query, timeout_s=timeout_s + ANSWER_SLACK_S)
    if dry_run:
        print_plan(answer, output)
        return
    report(answer, f"{name} published" if answer["changed"] else f"{name} unchanged", output)


@service.command()
@click.argument("name", shell_complete=complete_names("services"))
@dry_run_option
@wait_options
@output_option
@with_client
def unpublish(client: Any, name: str, *, dry_run: bool, wait: bool, timeout_s: float, output: str) -> None:
    """Take a service back: no gateway carries it any more."""
    query = dry_run_query(wait_query(wait=wait, timeout_s=timeout_s), dry_run=dry_run)
    answer = client.call("DELETE", "services", name, query=query, timeout_s=timeout_s + ANSWER_SLACK_S)
    if dry_run:
        print_plan(answer, output)
        return
    report(answer, f"{name} unpublished", output)


def public_of(*, http: str | None, tls: str | None, tcp: str | None, udp: str | None) -> Public:
    """The one of the four that is given; usage error otherwise."""
    given = [(kind, text) for kind, text in (("http", http), ("tls", tls), ("tcp", tcp), ("udp", udp)) if text]
    if len(given) != 1:
        raise click.UsageError("one of --http HOST, --tls HOST, --tcp PORT, --udp PORT is needed")
    ((kind, text),) = given
    if kind in ("http", "tls"):
        return Public(kind, host=text)
    first, dash, last = text.partition("-")
    port = _port(first, f"--{kind}")
    return Public(kind, port=port, last_port=_port(last, f"--{kind}") if dash else port)


def target_of(text: str, public_port: int) -> dict[str, Any]:
    """`site-a:8080`, `site-b=192.168.2.130:22`, `site-b=[fd00::1]:22`; the port may be that of the public side."""
    agent, equals, rest = text.partition("=")
    if not equals:
        agent, _, digits = text.partition(":")
        address = "127.0.0.1"
        if ":" in digits:
            raise click.BadParameter(
                f"{text}: an address follows the agent after =, as in {agent or 'site-a'}={digits}", param_hint="--to"
            )
    elif rest.startswith("["):
        address, _, digits = rest[1:].partition("]")
        digits = digits.removeprefix(":")
    else:
        address, _, digits = rest.partition(":")
    if not digits and not public_port:
        raise click.BadParameter(f"{text}: a port is needed, as in {agent or 'site-a'}:8080", param_hint="--to")
    if not agent or not address:
        raise click.BadParameter(f"{text}: of the form AGENT:PORT or AGENT=ADDRESS:PORT", param_hint="--to")
    return {"agent": agent, "address": address, "port": _port(digits, "--to") if digits else public_port}


def _port(digits: str, option: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and 0 < int(digits) < 65536):
        raise click.BadParameter(f"{digits or 'nothing'}: a port from 1 to 65535 is needed", param_hint=option)
    return int(digits)
