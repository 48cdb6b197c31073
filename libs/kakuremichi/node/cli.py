"""The command line that gateways and agents share; every option also by environment, `KAKUREMICHI_<NAME>`."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kakuremichi import __version__
from kakuremichi.node.state import NodeState
from kakuremichi.runtime.logs import configure_logs
from kakuremichi.runtime.telemetry import configure_telemetry
from kakuremichi.wire.enrolment import JoinToken, JoinTokenRefusedError, parse_join_token


@dataclass(frozen=True, slots=True)
class NodeOptions:
    state: NodeState
    token: str
    interface: str
    uapi_directory: Path

    def join_token(self) -> JoinToken:
        """The token to enrol with; a sentence for the person at the terminal if there is none."""
        if not self.token:
            raise click.ClickException(
                f"{self.state.directory}: this node is not enrolled; run `kakuremichi token create` on the server "
                "and start again with --token, or KAKUREMICHI_TOKEN"
            )
        try:
            return parse_join_token(self.token.strip())
        except JoinTokenRefusedError as error:
            raise click.ClickException(str(error)) from error


def node_command(role: str) -> Callable[[Callable[..., None]], click.Command]:
    """A click command with the options of every node; the function gets them as its first argument."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @click.command(context_settings={"auto_envvar_prefix": "KAKUREMICHI", "show_default": True})
        @click.version_option(__version__)
        @click.option("--token", default="", help="Join token; needed once, not kept.")
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
        @functools.wraps(function)
        def command(token: str, state: Path, interface: str, uapi_directory: Path, **others: Any) -> None:
            configure_logs(f"kakuremichi-{role}")
            configure_telemetry(f"kakuremichi-{role}")
            node_state = NodeState(state)
            node_state.open()
            function(NodeOptions(node_state, token, interface, uapi_directory), **others)

        return command

    return decorate
