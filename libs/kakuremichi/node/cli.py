"""The command line that gateways and agents share; every option also by environment, `KAKUREMICHI_<NAME>`."""

import functools
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kakuremichi import __version__
from kakuremichi.node.state import NodeState
from kakuremichi.runtime.config import ConfigError
from kakuremichi.runtime.logs import setup_logs
from kakuremichi.runtime.service import run_service
from kakuremichi.runtime.telemetry import setup_telemetry
from kakuremichi.wire.enrolment import JoinToken, JoinTokenRefusedError, parse_join_token

DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class NodeOptions:
    state: NodeState
    token: str
    interface: str
    uapi_directory: Path
    rotate_every_s: float = 0.0
    token_file: Path | None = None

    def join_token(self) -> JoinToken:
        """The token to enrol with; :class:`ConfigError` with what to do if there is none."""
        token = self.token or self._token_in_file()
        if not token:
            sentence = (
                f"{self.state.directory}: this node is not enrolled; run `kakuremichi token create` on the server "
                "and start again with --join-token-file"
            )
            raise ConfigError((sentence,))
        try:
            return parse_join_token(token.strip())
        except JoinTokenRefusedError as error:
            raise ConfigError((str(error),)) from error

    def _token_in_file(self) -> str:
        if self.token_file is None:
            return ""
        try:
            return self.token_file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "no text"
            raise ConfigError((f"join token file {self.token_file}: {reason}",)) from error


Run = Callable[..., Coroutine[Any, Any, None]]


def node_command(role: str) -> Callable[[Run], click.Command]:
    """A click command with the options of every node; the coroutine function gets them as its first argument."""

    def decorate(function: Run) -> click.Command:
        @click.command(context_settings={"auto_envvar_prefix": "KAKUREMICHI", "show_default": True})
        @click.version_option(__version__)
        @click.option("--join-token", default="", help="From `kakuremichi token create`; needed once, not kept.")
        @click.option(
            "--join-token-file", type=click.Path(path_type=Path), help="The same in a file: nobody sees it in `ps`."
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
        @functools.wraps(function)
        def command(
            *,
            join_token: str,
            join_token_file: Path | None,
            state: Path,
            interface: str,
            uapi_directory: Path,
            rotate_every: float,
            **others: Any,
        ) -> None:
            setup_logs(role)
            end_telemetry = setup_telemetry(role, version=__version__)
            options = NodeOptions(
                NodeState(state), join_token, interface, uapi_directory, rotate_every * DAY_S, join_token_file
            )
            options.state.open()
            code = run_service(role, lambda: function(options, **others))
            end_telemetry()
            sys.exit(code)

        return command

    return decorate
