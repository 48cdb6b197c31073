"""Beacons: every few seconds the signed head of each shared feed, so that a node notices what it missed."""

import asyncio

import structlog

from kakuremichi.bus.port import Bus, BusError
from kakuremichi.runtime.backoff import around
from kakuremichi.wire.codec import encode
from kakuremichi.wire.subjects import beacon
from kakuremichi_registry.database import Database, DatabaseUnavailableError
from kakuremichi_registry.signer import Signer
from kakuremichi_registry.store import feeds

log = structlog.get_logger(__name__)

EVERY_S = 5.0


class Beacons:
    """Sent by the process that relays, and by nobody else."""

    def __init__(
        self, bus: Bus, database: Database, signer: Signer, leading: asyncio.Event, *, every_s: float = EVERY_S
    ) -> None:
        self._bus, self._database, self._signer, self._leading = bus, database, signer, leading
        self._every_s = every_s

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if self._leading.is_set():
                try:
                    await self.send()
                except (BusError, DatabaseUnavailableError) as error:
                    log.info("beacons not sent", reason=str(error))
            try:
                async with asyncio.timeout(around(self._every_s, 0.1)):
                    await stop.wait()
            except TimeoutError:
                continue

    async def send(self) -> None:
        heads = await feeds.heads(self._database, await feeds.shared_feeds(self._database))
        for feed, head in heads.items():
            await self._bus.publish(beacon(feed), encode(self._signer.head(head)))
