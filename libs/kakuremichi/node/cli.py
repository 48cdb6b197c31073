"""The command line that gateways and agents share; every option also by environment, `KAKUREMICHI_<NAME>`."""

import asyncio
import functools
import socket
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import structlog

from kakuremichi import __version__
from kakuremichi.node.enrol import EnrolmentRefusedError, enrol
from kakuremichi.node.join import become_owner, join
from kakuremichi.node.state import Enrolment, NodeState, StateError
from kakuremichi.runtime.config import ConfigError
from kakuremichi.runtime.logs import setup_logs
from kakuremichi.runtime.metrics import ListenRefusedError, parse_listen
from kakuremichi.runtime.service import run_service
from kakuremichi.runtime.telemetry import setup_telemetry
from kakuremichi.wire.enrolment import MAX_TOKEN_CHARS, JoinToken, JoinTokenRefusedError, parse_join_token

log = structlog.get_logger(__name__)

DAY_S = 86400.0
JOIN_HELP = """Enrol this machine with the join token on standard input, once; the service then runs without it.

\b
echo kk1.… | kakuremichi-{role} join
"""


@dataclass(frozen=True, slots=True)
class NodeOptions:
    state: NodeState
    interface: str
    uapi_directory: Path
    rotate_every_s: float = 0.0
    token_file: Path | None = None
    metrics_listen: str = ""

    async def enrolled(self, *, networks: tuple[str, ...], endpoints: tuple[str, ...] = ()) -> Enrolment:
        """Who this node is: as it is kept, else for its join token, whose file is removed when it is used up."""
        held = self.state.enrolment()
        if held is not None:
            return held
        file = self.token_file or self.state.join_token_file
        try:
            enrolment = await enrol(self.state, self._join_token(file), networks=networks, endpoints=endpoints)
        except EnrolmentRefusedError as error:
            raise ConfigError((str(error),)) from error  # the same answer each time: no supervisor should try again
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            log.warning("join token is used up, remove its file", file=str(file), reason=error.strerror)
        return enrolment

    def _join_token(self, file: Path) -> JoinToken:
        """:class:`ConfigError` with what to do if there is none."""
        if self.token_file is None and not file.exists():
            sentence = (
                f"{self.state.directory}: this node is not enrolled; run `kakuremichi token create` where the control "
                "plane is, and the line that it prints here"
            )
            raise ConfigError((sentence,))
        try:
            return parse_join_token(file.read_text().strip())
        except JoinTokenRefusedError as error:
            raise ConfigError((str(error),)) from error
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "no text"
            raise ConfigError((f"join token file {file}: {reason}",)) from error


Run = Callable[..., Coroutine[Any, Any, None]]


def _metrics_listen(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    try:
        if text:
            parse_listen(text)
    except ListenRefusedError as error:
        raise click.BadParameter(str(error)) from error
    return text


_metrics_option = click.option(
    "--metrics-listen",
    default="",
    callback=_metrics_listen,
    metavar="WHERE",
    help="Tell Prometheus metrics at unix:/PATH or ADDRESS:PORT of loopback; without it nowhere.",
)


def node_command(role: str) -> Callable[[Run], click.Group]:
    """A click command with the options of every node; the coroutine function gets them as its first argument.

    Alone it is the service; its subcommand `join` is what a person runs once.
    """

    def decorate(function: Run) -> click.Group:
        @click.group(
            context_settings={"auto_envvar_prefix": "KAKUREMICHI", "show_default": True}, invoke_without_command=True
        )
        @click.version_option(__version__)
        @click.option(
            "--join-token-file",
            type=click.Path(path_type=Path),
            help="From `kakuremichi token create`; removed when it is used up. Else the one that `join` was given.",
        )
        @click.option(
            "--state",
            default=Path(f"/var/lib/kakuremichi/{role}"),
            type=click.Path(path_type=Path),
            help="Directory of this node's identity and last-known-good.",
        )
        @click.option("--interface", default="kk0", help="WireGuard interface.")
        @click.option(
            "--uapi-directory",
            default=Path("/var/run/wireguard"),
            type=click.Path(path_type=Path),
            help="Where wireguard-go has its socket, on kernels without WireGuard.",
        )
        @click.option(
            "--rotate-every",
            default=0.0,
            type=click.FloatRange(min=0),
            metavar="DAYS",
            help="Make a new WireGuard key so often; 0: only when asked.",
        )
        @_metrics_option
        @functools.wraps(function)
        def command(
            *,
            join_token_file: Path | None,
            state: Path,
            interface: str,
            uapi_directory: Path,
            rotate_every: float,
            metrics_listen: str,
            **others: Any,
        ) -> None:
            options = NodeOptions(
                NodeState(state), interface, uapi_directory, rotate_every * DAY_S, join_token_file, metrics_listen
            )
            context = click.get_current_context()
            context.obj = options
            if context.invoked_subcommand is None:
                sys.exit(_serve(role, options, lambda: function(options, **others)))

        command.command("join", help=JOIN_HELP.format(role=role))(click.pass_obj(functools.partial(_join, role)))
        return command

    return decorate


def _serve(role: str, options: NodeOptions, main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    setup_logs(role)
    end_telemetry = setup_telemetry(role, version=__version__, instance=_instance(options.state))
    options.state.open()
    code = run_service(role, main)
    end_telemetry()
    return code


def _instance(state: NodeState) -> str:
    """How a collector tells this node from others: its name, that of the host before it has one."""
    try:
        held = state.enrolment()
    except (StateError, OSError):
        held = None  # whatever is wrong is said where it matters
    return held.node.node_id if held else socket.gethostname()


def _join(role: str, options: NodeOptions) -> None:
    setup_logs(role)
    try:
        become_owner(options.state.directory)
        options.state.open()
        node = asyncio.run(join(options.state, sys.stdin.readline(MAX_TOKEN_CHARS + 2).strip(), options.interface)).node
    except (StateError, JoinTokenRefusedError, EnrolmentRefusedError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{node.role} {node.node_id} of pool {node.pool}: enrolled")
