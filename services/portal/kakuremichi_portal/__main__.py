"""`kakuremichi-portal`: HTTP API, enrolment and status page. Wiring only."""

import asyncio
import secrets
import sys
from contextlib import AsyncExitStack
from importlib.metadata import version

import structlog
from aiohttp import web

from kakuremichi.bus.connection import Credentials, NatsOptions
from kakuremichi.bus.nats import NatsBus
from kakuremichi.bus.topology import PORTAL, inbox_prefix
from kakuremichi.runtime.config import ConfigError, read_config
from kakuremichi.runtime.logs import setup_logs
from kakuremichi.runtime.service import run_service, run_until_stopped
from kakuremichi.runtime.telemetry import setup_telemetry
from kakuremichi_portal.access import TokenFileError, Tokens
from kakuremichi_portal.config import PortalConfig
from kakuremichi_portal.portal import Parts, Portal, build

log = structlog.get_logger()

SHUTDOWN_S = 10.0  # for requests in hand: longer than the default wait, within the grace of the service


async def run() -> None:
    config = read_config(PortalConfig)
    setup_logs("portal", level=config.log_level)
    host, port = config.address
    async with AsyncExitStack() as stack:
        stack.callback(setup_telemetry("portal", version=version("kakuremichi")))
        bus = await stack.enter_async_context(_bus(config))
        portal = build(Parts(bus=bus, tokens=_tokens(config), anchor=config.anchor, bus_access=config.bus_access))
        subscription = await portal.reports.listen()
        stack.push_async_callback(subscription.unsubscribe)
        await _serve(portal, host, port, stack)
        await run_until_stopped(bus=bus.hold, http=_until_stopped)


def _bus(config: PortalConfig) -> NatsBus:
    options = NatsOptions(
        servers=config.nats_url, name=f"portal/{secrets.token_hex(4)}", inbox_prefix=inbox_prefix(PORTAL)
    )

    async def credentials() -> Credentials:
        return Credentials(config.nats_user, config.nats_password.reveal())

    return NatsBus(options, credentials)


def _tokens(config: PortalConfig) -> Tokens:
    try:
        return Tokens(config.api_tokens)
    except TokenFileError as error:
        raise ConfigError((f"KAKUREMICHI_API_TOKENS: {error}",)) from error


async def _serve(portal: Portal, host: str, port: int, stack: AsyncExitStack) -> None:
    # The access log is ours: one line per request, by route template, with the trace id.
    runner = web.AppRunner(portal.app, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, host, port).start()
    log.info("portal listens", address=host, port=port)


async def _until_stopped(stop: asyncio.Event) -> None:
    await stop.wait()


def main() -> None:
    sys.exit(run_service("portal", run))


if __name__ == "__main__":
    main()
