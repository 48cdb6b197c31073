"""`kakuremichi-registry`: the truth in PostgreSQL and its relay. Wiring only."""

import asyncio
import sys
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack

import structlog

from kakuremichi import __version__
from kakuremichi.bus.credentials import credentials_of
from kakuremichi.bus.issuer import open_issuer
from kakuremichi.bus.metrics import bus_samples
from kakuremichi.bus.nats import NatsBus, NatsOptions
from kakuremichi.bus.span_mail import post_spans
from kakuremichi.bus.topology import CLAIMS, REGISTRY, Role, inbox_prefix
from kakuremichi.runtime.config import read_config
from kakuremichi.runtime.logs import setup_logs
from kakuremichi.runtime.metrics import Sample, configured_metrics
from kakuremichi.runtime.service import run_service, run_until_stopped
from kakuremichi.runtime.telemetry import setup_telemetry
from kakuremichi.runtime.tls import context_for
from kakuremichi.wire import subjects
from kakuremichi_registry.config import RegistryConfig, subnet_pools
from kakuremichi_registry.database import Database, DatabaseUnavailableError, open_database
from kakuremichi_registry.deployment import prepare
from kakuremichi_registry.metrics import samples
from kakuremichi_registry.registry import Registry
from kakuremichi_registry.trust import open_trust

DATABASE_WAIT_S = 60.0

log = structlog.get_logger(__name__)


async def serve() -> None:
    config = read_config(RegistryConfig)
    setup_logs("registry", level=config.log_level)
    networks = subnet_pools(config)
    async with AsyncExitStack() as stack:
        stack.callback(setup_telemetry("registry", version=__version__))
        trust = open_trust(config.trust_dir)
        issuer = open_issuer(config.issuer_dir, life_s=config.node_jwt_s)
        database = await _database(stack, config)
        await prepare(database, trust, networks)
        bus = await stack.enter_async_context(
            NatsBus(_options(config, REGISTRY), credentials_of(config.nats_credentials))
        )
        claims = await stack.enter_async_context(
            NatsBus(_options(config, CLAIMS), credentials_of(config.claims_credentials))
        )
        registry = Registry(bus, database, trust, issuer, claims)
        await registry.listen()
        log.info("registry starts", deployment=trust.deployment.hex())
        spans = post_spans(bus, subjects.service_spans("registry"))

        async def collect() -> Iterable[Sample]:
            return (*bus_samples(bus, spans), *samples(registry))

        loops = registry.loops() | configured_metrics(config.metrics_listen, collect)
        await run_until_stopped(bus=bus.hold, claims=claims.hold, spans=spans.run, **loops)


async def _database(stack: AsyncExitStack, config: RegistryConfig) -> Database:
    """PostgreSQL may start after us: ask until it answers. Who waits too long is restarted by its supervisor."""
    deadline = time.monotonic() + DATABASE_WAIT_S
    while True:
        try:
            return await stack.enter_async_context(open_database(config.database_url.reveal()))
        except DatabaseUnavailableError as error:
            if time.monotonic() > deadline:
                raise
            log.info("waiting for the database", reason=str(error))
            await asyncio.sleep(0.25)


def _options(config: RegistryConfig, role: Role) -> NatsOptions:
    tls = context_for(config.nats_url, config.nats_ca)
    return NatsOptions(servers=config.nats_url, name=role.name, inbox_prefix=inbox_prefix(role), tls=tls)


def main() -> None:
    sys.exit(run_service("registry", serve))


if __name__ == "__main__":
    main()
