"""`python -m kakuremichi.bus.provisioner`: keeps the streams as the topology says, also after a store was lost.

The one program with the right to make streams, and with no other. It acts on each new connection.
"""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import structlog
from msgspec import Meta, Struct

from kakuremichi.bus.credentials import credentials_of
from kakuremichi.bus.nats import NatsBus, NatsOptions
from kakuremichi.bus.port import Bus, BusError
from kakuremichi.bus.provision import provision
from kakuremichi.bus.topology import PROVISION, inbox_prefix
from kakuremichi.runtime.backoff import Backoff
from kakuremichi.runtime.config import read_config
from kakuremichi.runtime.logs import setup_logs
from kakuremichi.runtime.service import run_service, run_until_stopped
from kakuremichi.runtime.tls import context_for

log = structlog.get_logger(__name__)


class ProvisionerConfig(Struct, frozen=True, kw_only=True):
    nats_url: Annotated[tuple[str, ...], Meta(min_length=1, description="tls://HOST:PORT, several by commas")]
    nats_credentials: Annotated[Path, Meta(description="the file of the bus user provision, provision.creds")]
    nats_ca: Path | None = None
    replicas: Annotated[int, Meta(ge=1, le=5, description="of each stream: 1, or 3 in a cluster")] = 1


async def keep_streams(bus: Bus, stop: asyncio.Event, *, replicas: int = 1, backoff: Backoff | None = None) -> None:
    """Provision at every connection, and again until it succeeds."""
    pauses, due, failures = backoff or Backoff(), asyncio.Event(), 0
    bus.on_connected(lambda _generation: due.set())
    due.set()
    stopped = asyncio.create_task(stop.wait())
    while not stop.is_set():
        waiting = asyncio.create_task(due.wait())
        await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        due.clear()
        if stop.is_set() or await _provisioned(bus, replicas):
            failures = 0
            continue
        await asyncio.wait({stopped}, timeout=pauses.delay_s(failures))
        failures += 1
        due.set()
    stopped.cancel()


async def _provisioned(bus: Bus, replicas: int) -> bool:
    try:
        await bus.wait_connected(5.0)
        done = await provision(bus, replicas=replicas)
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

        async def streams(stop: asyncio.Event) -> None:
            await keep_streams(bus, stop, replicas=config.replicas)

        await run_until_stopped(bus=bus.hold, streams=streams)


if __name__ == "__main__":
    sys.exit(run_service("provisioner", serve))
