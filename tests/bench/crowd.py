"""Thousands of agents without tunnels behind them, acted by one process: enrolled by the portal's commands with the
registry, their keys, really signed, asked for as the keyring asks. Nobody follows their feeds or sends reports.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from nacl.signing import SigningKey

from bench.harness import progress
from bench.stage import Stage, wait_until
from kakuremichi.bus.credentials import credentials_of
from kakuremichi.bus.nats import NatsBus, NatsOptions
from kakuremichi.bus.topology import KEYRING, PORTAL, Role, inbox_prefix
from kakuremichi.fleet.lab_fleet import NATS_PORT
from kakuremichi.model.ids import NodeId, PoolName, ServiceId
from kakuremichi.model.keys import PrivateKey
from kakuremichi.node.announcing import make_announcement
from kakuremichi.node.state import Enrolment
from kakuremichi.runtime.tls import context_for
from kakuremichi.wire import commands, subjects
from kakuremichi.wire.codec import decode_any, encode
from kakuremichi.wire.enrolment import BusAccess, EnrolmentAnswer, hash_of
from kakuremichi.wire.key_requests import AcceptKey
from kakuremichi.wire.requests import KeyAccepted, KeyRefused
from kakuremichi.wire.signing import verify_key
from kakuremichi_portal.registry import Registry

ACTOR = "bench"
POOL = PoolName("default")
AT_ONCE = 16
ANSWER_S = 10.0
SERVICES_S = 180.0  # until a gateway has thousands of them
TCP_PORTS = 16_000  # crowd-tcp-1 is published at the next one
T = TypeVar("T")


async def grow(stage: Stage, size: int) -> None:
    """`crowd-1` to `crowd-<size>` are enrolled; those that are there already stay."""
    await enrol_crowd(stage, crowd_names(stage.crowd_size + 1, size))
    stage.crowd_size = max(size, stage.crowd_size)


async def grow_services(stage: Stage, size: int) -> None:
    """HTTP services `crowd-1` to `crowd-<size>`, those of the same names first, then round over the agents again."""
    await publish_crowd(stage, range(stage.crowd_services + 1, size + 1), _http_service)
    stage.crowd_services = max(size, stage.crowd_services)


async def publish_tcp(stage: Stage, size: int) -> None:
    """As many TCP services, round over the agents."""
    await publish_crowd(stage, range(1, size + 1), _tcp_service)


def crowd_names(first: int, last: int) -> list[str]:
    return [f"crowd-{number}" for number in range(first, last + 1)]


async def enrol_crowd(stage: Stage, names: Iterable[str]) -> None:
    """Enrol and announce one agent for each name; returns when every gateway has applied them."""
    wanted = list(names)

    async def work() -> None:
        async with bus_of(stage, PORTAL) as portal, bus_of(stage, KEYRING) as keyring:
            await each(wanted, Crowd(Registry(portal, timeout_s=ANSWER_S), keyring).join)

    await in_control(stage, work)
    progress(f"{len(wanted)} agents enrolled")
    await asyncio.to_thread(wait_applied, stage)


async def publish_crowd(
    stage: Stage, numbers: Sequence[int], service: Callable[[int, int], commands.PublishService]
) -> None:
    """`service` of each number and the crowd's size; returns when every gateway has applied them."""

    async def work() -> None:
        async with bus_of(stage, PORTAL) as portal:
            registry = Registry(portal, timeout_s=ANSWER_S)

            async def publish(number: int) -> None:
                await registry.ask(service(number, stage.crowd_size), commands.Written)

            await each(numbers, publish)

    await in_control(stage, work)
    progress(f"{len(numbers)} services published")
    await asyncio.to_thread(wait_applied, stage, within_s=SERVICES_S)


def _http_service(number: int, agents: int) -> commands.PublishService:
    name, targets = ServiceId(f"crowd-{number}"), _targets(number, agents)
    host = f"{name}.lab.test"
    return commands.PublishService(actor=ACTOR, service_id=name, pool=POOL, kind="http", host=host, targets=targets)


def _tcp_service(number: int, agents: int) -> commands.PublishService:
    name, port = ServiceId(f"crowd-tcp-{number}"), TCP_PORTS + number
    return commands.PublishService(
        actor=ACTOR,
        service_id=name,
        pool=POOL,
        kind="tcp",
        first_port=port,
        last_port=port,
        targets=_targets(number, agents),
    )


def _targets(number: int, agents: int) -> tuple[commands.TargetInput, ...]:
    return (commands.TargetInput(agent=NodeId(f"crowd-{(number - 1) % agents + 1}"), port=8080),)


class CrowdError(Exception):
    """An agent of the crowd did not come in; a sentence."""


class Crowd:
    """Makes nodes by name. Each speaks as itself only, so one process acts for them with the keyring's own right."""

    def __init__(self, registry: Registry, keyring: NatsBus) -> None:
        self._registry, self._keyring = registry, keyring

    async def join(self, name: str) -> None:
        node, identity, secret = NodeId(name), SigningKey.generate(), secrets.token_bytes(32)
        token = commands.CreateToken(actor=ACTOR, role="agent", node_id=node, pool=POOL, secret_hash=hash_of(secret))
        await self._registry.ask(token, commands.Written)
        enrol = commands.EnrolNode(
            actor=ACTOR,
            secret_hash=hash_of(secret),
            identity_key=verify_key(identity),
            sealing_key=PrivateKey.generate().public(),
            networks=(),
            endpoints=(),
            source="203.0.113.100",
        )
        await self._announce(node, identity, await self._registry.ask(enrol, commands.Enrolled))

    async def _announce(self, node: NodeId, identity: SigningKey, enrolled: commands.Enrolled) -> None:
        answer = EnrolmentAnswer(
            deployment=enrolled.deployment,
            certificate=enrolled.certificate,
            trust=enrolled.trust,
            feed_key=enrolled.feed_key,
            endpoints=(),
            bus=BusAccess(url="", jwt=""),
        )
        signed = make_announcement(
            Enrolment(answer), identity, None, PrivateKey.generate().public(), boot_id=bytes(16), endpoints=()
        )
        asked = encode(AcceptKey(announcement=signed))
        answer_bytes = (await self._keyring.request(subjects.KEY, asked, timeout_s=ANSWER_S)).data
        verdict: KeyAccepted | KeyRefused = decode_any(answer_bytes, KeyAccepted | KeyRefused, name="answer")
        if isinstance(verdict, KeyRefused):
            raise CrowdError(f"agent {node}: key refused, {verdict.detail}")


@asynccontextmanager
async def bus_of(stage: Stage, role: Role) -> AsyncIterator[NatsBus]:
    """A connection to the fleet's NATS in this role; only inside `in_control`."""
    control = stage.fleet.control
    server = f"tls://{stage.lab.address('control')}:{NATS_PORT}"
    options = NatsOptions(
        servers=(server,),
        name="bench",
        inbox_prefix=inbox_prefix(role),
        tls=context_for((server,), control.ca_file),
    )
    async with NatsBus(options, credentials_of(Path(control.bus_credentials(role.name)))) as bus:
        await bus.wait_connected(5)
        yield bus


async def in_control(stage: Stage, work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` on an event loop of its own in a thread that lives on the host `control`."""

    async def run() -> T:
        return await work()

    def inside() -> T:
        with stage.lab.in_namespace("control"):
            return asyncio.run(run())

    return await asyncio.to_thread(inside)


async def each(items: Iterable[T], act: Callable[[T], Awaitable[None]]) -> None:
    """`act` for every item, AT_ONCE at a time."""
    left = iter(items)

    async def worker() -> None:
        for item in left:
            await act(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())


def wait_applied(stage: Stage, gateways: tuple[str, ...] = (), *, within_s: float = 60.0) -> None:
    """Until these gateways, or those that follow, report that they are not behind, and without errors. Blocks."""
    api = stage.fleet.api()

    def applied() -> bool:
        nodes = [api.get(f"/gateways/{name}") for name in gateways or stage.following]
        return all(node["state"] == "live" and not node["behind"] and not node["errors"] for node in nodes)

    try:
        wait_until("gateways that have applied everything", applied, within_s=within_s)
    finally:
        api.close()
