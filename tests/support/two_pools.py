"""A portal in front of two pools: who has limits in one of them finds nothing of the other."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from kakuremichi.model.ids import NodeId, PoolName, ServiceId
from kakuremichi.wire.commands import PublishService, TargetInput, Written
from kakuremichi_portal.principal import Scope
from support.portal_https import PortalWorld, portal_over_https
from support.real_registry import World, http

THEIRS = ("gw-else", "site-z", "zeta", "zoo")  # of another pool
MAIN = Scope(pools=("main",))
SITE_A = Scope(pools=("main",), agents=("site-a",))
BODY = {"kind": "http", "pool": "main", "host": "x.example.com", "targets": [{"agent": "site-a", "port": 80}]}


def publish(name: str, agents: tuple[str, ...], pool: str = "main") -> PublishService:
    targets = tuple(TargetInput(agent=NodeId(agent), port=8080) for agent in agents)
    return PublishService(
        actor="admin", service_id=ServiceId(name), pool=PoolName(pool), kind="http", host=f"{name}.example.com",
        targets=targets,
    )  # fmt: skip


@asynccontextmanager
async def portal_of_two_pools(registry: World, folder: Path) -> AsyncIterator[PortalWorld]:
    """In `main` two sites with a service each, `alpha` and `beta`; in `zoo` one with `zeta`, and a token."""
    await registry.enrol("gw-main", "gateway")
    await registry.enrol("gw-else", "gateway", pool="zoo", endpoints=("192.0.2.9:51820",))
    for name, pool in (("site-a", "main"), ("site-b", "main"), ("site-z", "zoo")):
        await registry.enrol(name, pool=pool)
    for command in (http("alpha"), publish("beta", ("site-b",)), publish("zeta", ("site-z",), "zoo")):
        assert isinstance(await registry.ask(command), Written)
    await registry.token("site-y", pool="zoo")
    async with portal_over_https(registry, folder) as made:
        yield made
