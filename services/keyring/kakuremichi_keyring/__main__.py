"""`kakuremichi-keyring`: looks at announcements of WireGuard public keys. Wiring only."""

import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack

import structlog

from kakuremichi import __version__
from kakuremichi.bus.credentials import credentials_of
from kakuremichi.bus.metrics import bus_samples
from kakuremichi.bus.nats import NatsBus, NatsOptions
from kakuremichi.bus.serve import serve as answer_requests
from kakuremichi.bus.span_mail import post_spans
from kakuremichi.runtime.config import read_config
from kakuremichi.runtime.logs import setup_logs
from kakuremichi.runtime.metrics import Sample, configured_metrics
from kakuremichi.runtime.service import run_service, run_until_stopped
from kakuremichi.runtime.telemetry import setup_telemetry
from kakuremichi.runtime.tls import context_for
from kakuremichi.wire import subjects
from kakuremichi.wire.requests import AnyAnnounce
from kakuremichi_keyring.config import KeyringConfig
from kakuremichi_keyring.handlers import Keyring
from kakuremichi_keyring.metrics import samples
from kakuremichi_keyring.pin import TrustPin

log = structlog.get_logger(__name__)

QUEUE = "keyring"
AT_ONCE = 8  # a subscription handles one message after another; so many members of the group handle as many at once


async def serve() -> None:
    config = read_config(KeyringConfig)
    setup_logs("keyring", level=config.log_level)
    async with AsyncExitStack() as stack:
        stack.callback(setup_telemetry("keyring", version=__version__))
        bus = await stack.enter_async_context(NatsBus(_options(config), credentials_of(config.nats_credentials)))
        keyring = Keyring(bus, TrustPin(bytes.fromhex(config.trust_sha256)))
        counts: Counter[str] = Counter()
        await answer_requests(
            bus,
            subjects.ANNOUNCE,
            AnyAnnounce,
            keyring.answer,
            queue=QUEUE,
            at_once=AT_ONCE,
            refuse=Keyring.refuse,
            counts=counts,
        )
        log.info("keyring starts")
        spans = post_spans(bus, subjects.service_spans("keyring"))

        async def collect() -> Iterable[Sample]:
            return (*bus_samples(bus, spans), *samples(counts))

        told = configured_metrics(config.metrics_listen, collect)
        await run_until_stopped(bus=bus.hold, spans=spans.run, **told)


def _options(config: KeyringConfig) -> NatsOptions:
    tls = context_for(config.nats_url, config.nats_ca)
    return NatsOptions(servers=config.nats_url, name="keyring", inbox_prefix="_INBOX.keyring", tls=tls)


def main() -> None:
    sys.exit(run_service("keyring", serve))


if __name__ == "__main__":
    main()
