"""`kakuremichi-registry`: the truth in PostgreSQL and its relay. Wiring only."""

import asyncio
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import structlog

from kakuremichi import __version__
from kakuremichi.bus.nats import Credentials, NatsBus, NatsOptions
from kakuremichi.runtime.config import read_config
from kakuremichi.runtime.logs import setup_logs
from kakuremichi.runtime.service import run_service, run_until_stopped
from kakuremichi.runtime.telemetry import setup_telemetry
from kakuremichi_registry.config import RegistryConfig, subnet_pools
from kakuremichi_registry.database import Database, DatabaseUnavailableError, open_database
from kakuremichi_registry.deployment import prepare
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
        database = await _database(stack, config)
        await prepare(database, trust, networks)
        bus = await stack.enter_async_context(NatsBus(_options(config), _credentials(config)))
        registry = Registry(bus, database, trust)
        await registry.listen()
        log.info("registry starts", deployment=trust.deployment.hex())
        await run_until_stopped(bus=bus.hold, **registry.loops())


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


def _options(config: RegistryConfig) -> NatsOptions:
    tls = ssl.create_default_context(cafile=config.nats_ca) if config.nats_ca else None
    return NatsOptions(servers=config.nats_url, name="registry", inbox_prefix="_INBOX.registry", tls=tls)


def _credentials(config: RegistryConfig) -> Callable[[], Awaitable[Credentials]]:
    async def credentials() -> Credentials:
        return Credentials("registry", config.nats_password.reveal())

    return credentials


def main() -> None:
    sys.exit(run_service("registry", serve))


if __name__ == "__main__":
    main()
