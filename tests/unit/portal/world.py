"""What the tests of the portal share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestClient, TestServer
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from kakuremichi.bus.memory import MemoryBus, MemoryNats
from kakuremichi_portal.access import Tokens, add_token
from kakuremichi_portal.portal import Parts, Portal, build
from kakuremichi_portal.token_routes import JoinAnchor
from unit.portal.fake_registry import TRUST_HASH, FakeNode, FakeRegistry

WIKI = {"name": "wiki", "kind": "http", "host": "wiki.lab.test", "targets": [{"agent": "site-a", "port": 8080}]}
NATS_URL = "nats://control.test:4222"


@dataclass
class World:
    """A portal on the memory bus with a fake registry, and somebody who may do everything."""

    nats: MemoryNats
    bus: MemoryBus
    registry: FakeRegistry
    registry_bus: MemoryBus
    portal: Portal
    client: "TestClient[Any, Any]"
    token_file: Path
    admin: str
    viewer: str

    @property
    def auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.admin}"}

    def node(self, name: str, feed: str = "feed.pool.default") -> FakeNode:
        return FakeNode(self.nats, name, feed)

    async def hear(self, name: str, feed_seq: int, feed: str = "feed.pool.default") -> None:
        await self.node(name, feed).report(feed_seq)
        await self.nats.idle()


@asynccontextmanager
async def open_world(folder: Path) -> AsyncIterator[World]:
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    token_file = folder / "tokens.json"
    admin, viewer = add_token(token_file, "ann", "admin"), add_token(token_file, "vic", "read")
    nats = MemoryNats()
    bus, registry_bus, registry = nats.connect("portal"), nats.connect("registry"), FakeRegistry()
    await registry.serve(registry_bus)
    parts = Parts(
        bus=bus,
        tokens=Tokens(token_file),
        anchor=JoinAnchor("http://control.test:8080", b"", TRUST_HASH),
        node_nats_url=NATS_URL,
        registry_timeout_s=0.3,
    )
    portal = build(parts)
    await portal.reports.listen()
    async with TestClient(TestServer(portal.app)) as client:
        yield World(nats, bus, registry, registry_bus, portal, client, token_file, admin, viewer)
    await bus.close()
    await registry_bus.close()
