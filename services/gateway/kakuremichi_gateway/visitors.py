"""The gateway's options about all its visitors: what one address may take, how they may come, what is written down."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from kakuremichi.dataplane.nftables.guards import GUARDS, MOST, Guards
from kakuremichi_gateway.access_log import AccessLog
from kakuremichi_gateway.capacity import watch_capacity
from kakuremichi_gateway.flow_log import ACCOUNTING, FlowLog

_ADDRESS = "one address (IPv6: one /64) over all public ports; 0 is no limit."


@dataclass(frozen=True, slots=True)
class Visitors:
    guards: Guards = GUARDS
    flow_log: Path | None = None
    access_log: Path | None = None
    http3: bool = False  # asked for; whether HAProxy can is another question

    @property
    def sysctls(self) -> dict[str, str]:
        """What the kernel must be told for it."""
        return ACCOUNTING if self.flow_log else {}

    def loops(
        self, service_of: Callable[[int], str], warn: Callable[[str, str], None], door: Path
    ) -> dict[str, Callable[[asyncio.Event], Awaitable[None]]]:
        """`service_of` gives the service of a number in the kernel, `warn` takes (topic, sentence).

        `door` is where HAProxy sends the lines of the access log.
        """
        loops: dict[str, Callable[[asyncio.Event], Awaitable[None]]] = {"capacity": partial(watch_capacity, warn)}
        if self.flow_log:
            loops["flow log"] = FlowLog(self.flow_log, service_of).run
        if self.access_log:
            loops["access log"] = AccessLog(self.access_log, door).run
        return loops


def visitor_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Click options that arrive as one argument `visitors`."""

    @click.option(
        "--visitor-rate",
        type=click.IntRange(0, MOST),
        default=GUARDS.rate,
        help=f"New connections a second from {_ADDRESS}",
    )
    @click.option(
        "--visitor-connections",
        type=click.IntRange(0, MOST),
        default=GUARDS.connections,
        help=f"Open TCP connections of {_ADDRESS}",
    )
    @click.option(
        "--flow-log",
        type=click.Path(path_type=Path),
        help="Write who visits tcp and udp services to this file, as JSON lines.",
    )
    @click.option(
        "--access-log",
        type=click.Path(path_type=Path),
        help="Write the requests of services with the option access_log to this file, as JSON lines.",
    )
    @click.option("--http3", is_flag=True, help="Serve HTTP/3 at UDP port 443, if this HAProxy has QUIC.")
    @functools.wraps(function)
    def with_visitors(
        *arguments: Any, visitor_rate: int, visitor_connections: int, flow_log: Path | None,
        access_log: Path | None, http3: bool, **others: Any,
    ) -> Any:  # fmt: skip
        visitors = Visitors(Guards(visitor_rate, visitor_connections), flow_log, access_log, http3)
        return function(*arguments, visitors=visitors, **others)

    return with_visitors
