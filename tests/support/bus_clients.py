"""Nodes on a real nats-server: who shows which JWT with which key."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nacl.signing import SigningKey

from kakuremichi.bus.credentials import own_credentials
from kakuremichi.bus.nats import Credentials, NatsBus, NatsOptions
from kakuremichi.bus.server import NatsServer
from kakuremichi.runtime.backoff import Backoff

QUICK = Backoff(0.05, 0.2)


@asynccontextmanager
async def shown_by(server: NatsServer, jwt: str, identity: SigningKey, node: str) -> AsyncIterator[NatsBus]:
    """A connection of `node` with this JWT, and the same one again whenever it has to come back."""

    async def credentials() -> Credentials:
        return own_credentials(jwt, identity)

    options = NatsOptions(servers=(server.url,), name=node, inbox_prefix=f"reply.{node}", backoff=QUICK, stable_s=0.2)
    async with NatsBus(options, credentials) as bus:
        yield bus


async def refused_with(bus: NatsBus, times: int) -> None:
    """Return once the server has refused the credentials so often more."""
    wanted = bus.counts["credentials_refused"] + times
    async with asyncio.timeout(10):
        while bus.counts["credentials_refused"] < wanted:  # noqa: ASYNC110  # it is said in another process
            await asyncio.sleep(0.01)
