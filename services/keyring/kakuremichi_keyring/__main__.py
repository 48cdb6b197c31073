"""`kakuremichi-keyring`: looks at announcements of WireGuard public keys. Wiring only."""

import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import structlog

from kakuremichi import __version__
from kakuremichi.bus.nats import Credentials, NatsBus, NatsOptions
from kakuremichi.bus.serve import serve as answer_requests
from kakuremichi.runtime.config import read_config
from kakuremichi.runtime.logs import setup_logs
from kakuremichi.runtime.service import run_service, run_until_stopped
from kakuremichi.runtime.telemetry import setup_telemetry
from kakuremichi.wire import subjects
from kakuremichi.wire.requests import Announce
from kakuremichi_keyring.config import KeyringConfig
from kakuremichi_keyring.handlers import Keyring
from kakuremichi_keyring.pin import TrustPin

log = structlog.get_logger(__name__)

QUEUE = "keyring"
AT_ONCE = 8  # a subscription handles one message after another; so many members of the group handle as many at once


async def serve() -> None:
    config = read_config(KeyringConfig)
    setup_logs("keyring", level=config.log_level)
    async with AsyncExitStack() as stack:
        stack.callback(setup_telemetry("keyring", version=__version__))
        bus = await stack.enter_async_context(NatsBus(_options(config), _credentials(config)))
        keyring = Keyring(bus, TrustPin(bytes.fromhex(config.trust_sha256)))
        for _ in range(AT_ONCE):
            await answer_requests(bus, subjects.ANNOUNCE, Announce, keyring.answer, queue=QUEUE, refuse=Keyring.refuse)
        log.info("keyring starts")
        await run_until_stopped(bus=bus.hold)


def _options(config: KeyringConfig) -> NatsOptions:
    tls = ssl.create_default_context(cafile=config.nats_ca) if config.nats_ca else None
    return NatsOptions(servers=config.nats_url, name="keyring", inbox_prefix="_INBOX.keyring", tls=tls)


def _credentials(config: KeyringConfig) -> Callable[[], Awaitable[Credentials]]:
    async def credentials() -> Credentials:
        return Credentials("keyring", config.nats_password.reveal())

    return credentials


def main() -> None:
    sys.exit(run_service("keyring", serve))


if __name__ == "__main__":
    main()
