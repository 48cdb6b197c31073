"""The first of three cuts: nats-server is told whose credentials count for nothing, and disconnects them at once."""

import asyncio

import structlog

from kakuremichi.bus.claims import push_revocation
from kakuremichi.bus.issuer import CLOCK_SLACK_S, IssuerError, NodeIssuer
from kakuremichi.bus.port import Bus, BusError
from kakuremichi.model.keys import VerifyKey
from kakuremichi.runtime.backoff import Backoff
from kakuremichi.runtime.waiting import first_of
from kakuremichi_registry.database import Database, DatabaseUnavailableError
from kakuremichi_registry.store.cuts import cut_identities

log = structlog.get_logger(__name__)

EVERY_S = 60.0  # another replica may have written one


class Cuts:
    """Keeps the server's list what the database says. `wake` after a write that cuts somebody off."""

    def __init__(self, bus: Bus, database: Database, issuer: NodeIssuer, *, every_s: float = EVERY_S) -> None:
        self._bus, self._database, self._issuer, self._every_s = bus, database, issuer, every_s
        self._due = asyncio.Event()
        self._said: dict[VerifyKey, float] = {}
        self._generation = 0

    def wake(self) -> None:
        self._due.set()

    async def run(self, stop: asyncio.Event) -> None:
        self._bus.on_connected(lambda _generation: self._due.set())
        backoff, failures = Backoff(cap_s=10.0), 0
        while not stop.is_set():
            self._due.clear()
            failures = 0 if await self._once() else failures + 1
            await first_of(self._due, stop, timeout_s=backoff.delay_s(failures) if failures else self._every_s)

    async def _once(self) -> bool:
        """Say what is to be said; whether all is said. On a new connection it may be another server: say it again."""
        try:
            cut = await cut_identities(self._database, self._issuer.life_s + CLOCK_SLACK_S)
            if not cut or (cut == self._said and self._bus.generation == self._generation):
                return True
            generation = self._bus.generation
            await push_revocation(self._bus, self._issuer, cut)
        except (BusError, DatabaseUnavailableError, IssuerError) as error:
            log.warning("revocations not told to the bus", reason=str(error))
            return False
        self._said, self._generation = cut, generation
        log.info("revocations told to the bus", count=len(cut))
        return True
