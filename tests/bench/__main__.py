"""`make bench`: take every figure of goals.toml, print them, exit 1 unless all are met.

python -m bench [--only NAME]      figures whose name contains NAME
"""

import argparse
import asyncio
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from bench import (
    api,
    changes,
    churn,
    cold_start,
    enrolments,
    fleet_size,
    flood,
    http2,
    idle,
    latency,
    live_views,
    many_services,
    processes,
    proxy_protocol,
    replay,
    revocation,
    rotation,
    streams,
    tcp,
    udp,
    web,
)
from bench.harness import Book, Figure, print_lines, progress, read_goals
from bench.stage import Stage, open_stage
from kakuremichi.runtime.errors import reason_of
from kakuremichi.runtime.logs import setup_logs


@dataclass(frozen=True, slots=True)
class Measurement:
    """What takes one or several figures. `within_s`: it is given up then."""

    figures: tuple[str, ...]
    take: Callable[..., Awaitable[list[Figure]]]
    within_s: float = 150.0
    on_stage: bool = True  # in the lab; else `take` is called with nothing
    stage: str = "fleet"  # of STAGES


DESCRIPTORS = 65_536
# One visitor who stands for thousands may not run into what a gateway grants to one address.
_NO_GUARDS = {"KAKUREMICHI_VISITOR_RATE": "1000000", "KAKUREMICHI_VISITOR_CONNECTIONS": "1000000"}
# A lab of its own each, one after another; what the gateways find in their environment.
STAGES: dict[str, dict[str, str]] = {"fleet": {}, "crowded": _NO_GUARDS, "many": _NO_GUARDS}

MEASUREMENTS = (
    Measurement(("tcp_through_gateway_ratio",), tcp.measure, within_s=300),
    Measurement(("udp_packets_ratio",), udp.measure),
    Measurement(("http_requests_ratio",), partial(web.measure, scheme="http")),
    Measurement(("https_requests_ratio",), partial(web.measure, scheme="https")),
    Measurement(("http2_requests_ratio",), http2.measure),
    Measurement(("websocket_messages_ratio",), streams.websocket),
    Measurement(("large_download_ratio",), streams.download),
    Measurement(("added_latency_p50", "added_latency_p99"), latency.measure),
    Measurement(churn.NAMES, churn.measure, within_s=400),
    Measurement(("syn_flood_p99_ratio",), flood.measure, within_s=300),
    Measurement(("applied_on_3_gateways_p99",), changes.measure, within_s=300),
    Measurement(("agent_rotation_failed", "agent_rotation_added_latency"), rotation.agent),
    Measurement(("gateway_rotation_failed",), rotation.gateway),
    Measurement(("enrolments_per_second",), enrolments.measure),
    Measurement(("revocation_last_gateway",), revocation.measure),
    Measurement(("one_change_2000_agents_ratio",), fleet_size.one_change, within_s=300),
    # Before the services of the next one: they are work that would hide the price of the signatures.
    Measurement(("cold_start_verified_ratio",), cold_start.verified_ratio, within_s=600),
    Measurement(("cold_start_2000_agents", "cold_start_2000_agents_memory"), cold_start.cold_start, within_s=300),
    Measurement(("reconciler_subprocesses",), processes.measure),
    Measurement(
        ("api_reads_per_second", "api_read_p99", "api_writes_per_second", "api_write_p99"), api.measure, within_s=240
    ),
    Measurement(("live_delay_p99",), live_views.measure, within_s=240),
    Measurement(("tracing_changes_ratio",), api.tracing, within_s=400),
    Measurement(("replay_1m_s", "state_from_snapshot_s"), replay.measure, within_s=600, on_stage=False),
    Measurement(("proxy_protocol_ratio",), proxy_protocol.measure, stage="crowded"),
    Measurement((idle.NAME,), idle.measure, within_s=300),
    *(Measurement(names, take, within_s=600, stage="many") for names, take in many_services.FIGURES),
)


async def run(book: Book, only: str) -> None:
    wanted = [each for each in MEASUREMENTS if any(only in name for name in each.figures)]
    if not wanted:
        return
    for each in wanted:
        if not each.on_stage:
            book.add(*await take(each))
    for name, gateway_env in STAGES.items():
        here = [each for each in wanted if each.on_stage and each.stage == name]
        if not here:
            continue
        async with open_stage(gateway_env) as stage:
            for each in here:
                book.add(*await take(each, stage))


async def take(measurement: Measurement, *stage: Stage) -> list[Figure]:
    """Its figures; without a value, and why, if they could not be taken. The others are taken all the same."""
    try:
        async with asyncio.timeout(measurement.within_s):
            return await measurement.take(*stage)
    except Exception as error:  # noqa: BLE001  # whatever it was, the figure has no value and the run goes on
        reason = reason_of(error)
        progress(f"{', '.join(measurement.figures)}: not taken: {reason}")
        return [Figure(name, None, note=reason[:300]) for name in measurement.figures]


def is_root() -> bool:
    return os.geteuid() == 0


def raise_descriptors() -> None:
    """As many file descriptors for us, and for all that is started here, as the units of a server have at least."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = hard if hard == resource.RLIM_INFINITY else max(hard, DESCRIPTORS)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    except (OSError, ValueError) as error:
        progress(f"file descriptors stay at {hard}: {error}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description="take the figures of goals.toml")
    parser.add_argument("--only", default="", help="figures whose name contains this")
    only: str = parser.parse_args().only
    book = Book(read_goals())
    setup_logs("bench", level="WARNING")  # standard output is for the figures
    if not is_root():
        progress("needs root, for network namespaces: run 'sudo make bench'")
    else:
        raise_descriptors()
        # A SIGTERM takes the lab down like Ctrl-C does.
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        try:
            asyncio.run(run(book, only))
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # what was measured is printed all the same
            progress(f"ended early: {reason_of(error)}")
    lines = book.lines(only)
    print_lines(lines)
    return 0 if lines and all(line.met for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
