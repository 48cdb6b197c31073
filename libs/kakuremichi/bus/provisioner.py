"""`python -m kakuremichi.bus.provisioner`: keeps the streams as the topology says, also after a store was lost.

The one program with the right to make streams, and with no other. It acts on each new connection.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import structlog
from msgspec import Meta, Struct

from kakuremichi.bus.credentials import credentials_of
from kakuremichi.bus.nats import NatsBus, NatsOptions
from kakuremichi.bus.port import Bus, BusError
from kakuremichi.bus.provision import provision
from kakuremichi.bus.topology import DAY_S, PROVISION, STREAMS, WEEK_S, StreamSpec, inbox_prefix, streams
from kakuremichi.runtime.backoff import Backoff
from kakuremichi.runtime.config import read_config
from kakuremichi.runtime.logs import setup_logs
from kakuremichi.runtime.service import run_service, run_until_stopped
from kakuremichi.runtime.tls import context_for
from kakuremichi.runtime.waiting import first_of

log = structlog.get_logger(__name__)


class ProvisionerConfig(Struct, frozen=True, kw_only=True):
    nats_url: Annotated[tuple[str, ...], Meta(min_length=1, description="tls://HOST:PORT, several by commas")]
    nats_credentials: Annotated[Path, Meta(description="the file of the bus user provision, provision.creds")]
    nats_ca: Path | None = None
    replicas: Annotated[int, Meta(ge=1, le=5, description="of each stream: 1, or 3 in a cluster")] = 1
    kept_for_s: Annotated[
        int, Meta(ge=600, le=WEEK_S, description="how long traces and times of changes are kept for portals")
    ] = DAY_S


async def keep_streams(
    bus: Bus, stop: asyncio.Event, *, replicas: int = 1, wanted: Sequence[StreamSpec] = STREAMS,
    backoff: Backoff | None = None,
) -> None:  # fmt: skip
    """Provision at every connection, and again until it succeeds."""
    pauses, due, failures = backoff or Backoff(), asyncio.Event(), 0
    bus.on_connected(lambda _generation: due.set())
    due.set()
    while not stop.is_set():
        await first_of(due, stop)
        due.clear()
        if stop.is_set() or await _provisioned(bus, replicas, wanted):
            failures = 0
            continue
        await first_of(stop, timeout_s=pauses.delay_s(failures))
        failures += 1
        due.set()


async def _provisioned(bus: Bus, replicas: int, wanted: Sequence[StreamSpec]) -> bool:
    try:
        await bus.wait_connected(5.0)
        done = await provision(bus, streams=wanted, replicas=replicas)
    except BusError as error:
        log.info("streams not provisioned", reason=str(error))
        return False
    log.info("streams provisioned", **{each.stream: each.outcome for each in done})
    return True


async def serve() -> None:
    config = read_config(ProvisionerConfig)
    setup_logs("provisioner")

    options = NatsOptions(
        servers=config.nats_url, name="provision", inbox_prefix=inbox_prefix(PROVISION),
        tls=context_for(config.nats_url, config.nats_ca),
    )  # fmt: skip
    async with NatsBus(options, credentials_of(config.nats_credentials)) as bus:

        async def keep(stop: asyncio.Event) -> None:
            await keep_streams(bus, stop, replicas=config.replicas, wanted=streams(config.kept_for_s))

        await run_until_stopped(bus=bus.hold, streams=keep)


if __name__ == "__main__":
    sys.exit(run_service("provisioner", serve))
