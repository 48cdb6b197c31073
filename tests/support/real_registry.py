"""The real registry on a real PostgreSQL, and people who ask it things, for tests."""

import asyncio
import atexit
import hashlib
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from nacl.signing import SigningKey

from kakuremichi.bus.issuer import NodeIssuer, open_issuer
from kakuremichi.bus.operator import init_operator
from kakuremichi.bus.port import Bus
from kakuremichi.model.ids import NodeId, PoolName, ServiceId
from kakuremichi.model.keys import PrivateKey, PublicKey
from kakuremichi.reconcile.verify import Verifier
from kakuremichi.wire import signing, subjects
from kakuremichi.wire.codec import decode, decode_any, encode
from kakuremichi.wire.commands import (
    AnyCommand,
    AnyResult,
    CreateToken,
    Enrolled,
    EnrolNode,
    PublishService,
    TargetInput,
    Written,
)
from kakuremichi.wire.identity import NO_HASH, Announcement, Certificate, Role, TrustSet
from kakuremichi.wire.signing import Signed, verify_key
from kakuremichi_registry.allocator import DEFAULT_NETWORKS
from kakuremichi_registry.database import Database, open_database
from kakuremichi_registry.deployment import prepare
from kakuremichi_registry.registry import Registry
from kakuremichi_registry.trust import Trust

POOL = PoolName("main")
GATEWAY_ENDPOINT = "192.0.2.1:51820"


@dataclass
class Enrollee:
    """A node that was enrolled: its keys and what the registry signed for it."""

    enrolled: Enrolled
    identity: SigningKey
    private: PrivateKey = field(default_factory=PrivateKey.generate)
    epoch: int = 0
    previous: bytes = NO_HASH  # hash of the announcement that was made last
    boot_id: bytes = b"b" * 16

    @property
    def certificate(self) -> Certificate:
        return decode(self.enrolled.certificate.body, Certificate)

    @property
    def node_id(self) -> NodeId:
        return self.certificate.node_id

    def announcement(self, *, epoch: int = 0, key: PublicKey | None = None, endpoints: tuple[str, ...] = ()) -> Signed:
        """The next one, or that of `epoch`."""
        self.epoch = epoch or max(self.epoch + 1, time.time_ns() // 1_000_000)
        if self.certificate.role == "gateway" and not endpoints:
            endpoints = (GATEWAY_ENDPOINT,)
        body = Announcement(
            node_id=self.node_id,
            serial=self.certificate.serial,
            public_key=key or self.private.public(),
            epoch=self.epoch,
            boot_id=self.boot_id,
            endpoints=endpoints,
            previous=self.previous,
        )
        signed = signing.sign(
            signing.ANNOUNCEMENT, signing.DeploymentId(self.enrolled.deployment), encode(body), self.identity
        )
        self.previous = signing.digest_of(signed)
        return signed


@dataclass
class World:
    """One registry and a portal that asks it."""

    registry: Registry
    database: Database
    trust: Trust
    portal: Bus
    folds: bool = True  # False: a test has changed the tables by hand, so the log does not tell what they hold

    async def ask(self, command: AnyCommand) -> AnyResult:
        answer = await self.portal.request(subjects.COMMAND, encode(command), timeout_s=20)
        result: AnyResult = decode_any(answer.data, AnyResult, name="result")
        return result

    async def token(self, name: str, role: Role = "agent", pool: str = POOL) -> bytes:
        """The hash of a fresh join token's secret."""
        secret_hash = hashlib.sha256(secrets.token_bytes(32)).digest()
        command = CreateToken(
            actor="admin", role=role, node_id=NodeId(name), pool=PoolName(pool), secret_hash=secret_hash
        )
        assert isinstance(await self.ask(command), Written)
        return secret_hash

    async def enrol(
        self,
        name: str,
        role: Role = "agent",
        *,
        pool: str = POOL,
        networks: tuple[str, ...] = (),
        endpoints: tuple[str, ...] = (),
    ) -> Enrollee:
        identity = SigningKey.generate()
        if role == "gateway" and not endpoints:
            endpoints = (GATEWAY_ENDPOINT,)
        command = redeem(await self.token(name, role, pool), identity, networks=networks, endpoints=endpoints)
        enrolled = await self.ask(command)
        assert isinstance(enrolled, Enrolled), enrolled
        return Enrollee(enrolled, identity)

    def verifier(self) -> Verifier:
        made = Verifier(self.trust.deployment, decode(self.trust.trust_set.body, TrustSet))
        made.learn_feed_key(self.trust.feed_certificate)
        return made


def redeem(
    secret_hash: bytes,
    identity: SigningKey,
    *,
    networks: tuple[str, ...] = (),
    endpoints: tuple[str, ...] = (),
    sealing: PublicKey | None = None,
) -> EnrolNode:
    return EnrolNode(
        actor="node",
        secret_hash=secret_hash,
        identity_key=verify_key(identity),
        sealing_key=sealing or PrivateKey.generate().public(),
        networks=networks,
        endpoints=endpoints,
        source="198.51.100.7",
    )


def http(name: str, host: str = "", *, agent: str = "site-a", key: str = "", pool: str = POOL) -> PublishService:
    return PublishService(
        actor="admin", service_id=ServiceId(name), pool=PoolName(pool), kind="http", host=host or f"{name}.example.com",
        targets=(TargetInput(agent=NodeId(agent), port=8080),), idempotency_key=key,
    )  # fmt: skip


def tcp(name: str, port: int, last: int = 0, *, agent: str = "site-a", udp: bool = False) -> PublishService:
    ranged = last > port
    return PublishService(
        actor="admin", service_id=ServiceId(name), pool=POOL, kind="udp" if udp else "tcp",
        first_port=port, last_port=last,
        targets=(TargetInput(agent=NodeId(agent), address="192.168.2.130", port=0 if ranged else 22),),
    )  # fmt: skip


@cache
def throwaway_issuer() -> NodeIssuer:
    """An issuer of a NATS operator that no server knows."""
    folder = Path(tempfile.mkdtemp(prefix="kk-operator-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return open_issuer(init_operator(folder).registry)


@asynccontextmanager
async def running(registry: Registry) -> AsyncIterator[None]:
    """The registry's loops, told to stop at the end and awaited."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(loop(stop), name=name) for name, loop in registry.loops().items()]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)


@asynccontextmanager
async def world(
    dsn: str, trust: Trust, registry_bus: Bus, portal_bus: Bus, *, claims_bus: Bus | None = None,
    issuer: NodeIssuer | None = None,
) -> AsyncIterator[World]:  # fmt: skip
    """A registry that listens and runs on `registry_bus`."""
    async with open_database(dsn) as database:
        await prepare(database, trust, DEFAULT_NETWORKS)
        registry = Registry(registry_bus, database, trust, issuer or throwaway_issuer(), claims_bus or registry_bus)
        await registry.listen()
        async with running(registry):
            yield World(registry, database, trust, portal_bus)
