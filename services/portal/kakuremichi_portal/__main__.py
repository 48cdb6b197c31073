"""`kakuremichi-portal`: HTTP API, enrolment and status page. Wiring only."""

import asyncio
import secrets
import ssl
import sys
from contextlib import AsyncExitStack
from functools import partial
from importlib.metadata import version

import structlog
from aiohttp import web

from kakuremichi.bus.connection import NatsOptions
from kakuremichi.bus.credentials import credentials_of
from kakuremichi.bus.metrics import bus_samples
from kakuremichi.bus.nats import NatsBus
from kakuremichi.bus.span_mail import post_spans
from kakuremichi.bus.topology import PORTAL, inbox_prefix
from kakuremichi.runtime.config import ConfigError, read_config
from kakuremichi.runtime.logs import setup_logs
from kakuremichi.runtime.service import run_service, run_until_stopped
from kakuremichi.runtime.telemetry import setup_telemetry
from kakuremichi.runtime.tls import context_for
from kakuremichi.wire import subjects
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
        parts = Parts(
            bus=bus,
            tokens=_tokens(config),
            anchor=config.anchor,
            node_nats_url=config.node_nats_url,
            ca=config.ca,
            oidc=config.oidc,
        )
        portal = build(parts)
        for subscription in await portal.listen(bus):
            stack.push_async_callback(subscription.unsubscribe)
        spans = post_spans(bus, subjects.service_spans("portal"))
        portal.metrics.add(partial(bus_samples, bus, spans))
        await _serve(portal, (host, port), config.tls, stack)
        await run_until_stopped(
            bus=bus.hold, http=_until_stopped, live=portal.live.run, spans=spans.run, past=portal.past.run
        )


def _bus(config: PortalConfig) -> NatsBus:
    options = NatsOptions(
        servers=config.nats_url, name=f"portal/{secrets.token_hex(4)}", inbox_prefix=inbox_prefix(PORTAL),
        tls=context_for(config.nats_url, config.nats_ca),
    )  # fmt: skip
    return NatsBus(options, credentials_of(config.nats_credentials))


def _tokens(config: PortalConfig) -> Tokens:
    try:
        return Tokens(config.api_tokens)
    except TokenFileError as error:
        raise ConfigError((f"KAKUREMICHI_API_TOKENS: {error}",)) from error


async def _serve(portal: Portal, address: tuple[str, int], tls: ssl.SSLContext | None, stack: AsyncExitStack) -> None:
    host, port = address
    # The access log is ours: one line per request, by route template, with the trace id.
    runner = web.AppRunner(portal.app, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, host, port, ssl_context=tls).start()
    log.info("portal listens", address=host, port=port, tls=tls is not None)


async def _until_stopped(stop: asyncio.Event) -> None:
    await stop.wait()


def main() -> None:
    sys.exit(run_service("portal", run))


if __name__ == "__main__":
    main()
