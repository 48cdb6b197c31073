"""A whole control plane in processes of its own: PostgreSQL, nats-server, registry and portal, for tests."""

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from nacl.signing import SigningKey

from kakuremichi.bus.credentials import own_credentials
from kakuremichi.bus.nats import Credentials, NatsBus, NatsOptions
from kakuremichi.bus.port import Message
from kakuremichi.bus.provision import provision
from kakuremichi.bus.server import NatsServer, free_port, running_server
from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import PrivateKey
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.enrolment import encode_json, parse_join_token, read_answer, request_to_enrol
from kakuremichi.wire.identity import Certificate
from kakuremichi.wire.records import TAGS, FeedItem
from kakuremichi.wire.requests import Cursor, Report
from kakuremichi.wire.signing import Signed
from kakuremichi_portal.access import add_token
from kakuremichi_registry import embedded_postgres
from kakuremichi_registry.trust import init_trust


@dataclass
class Deployment:
    folder: Path
    url: str
    nats: NatsServer
    stack: AsyncExitStack
    environ: dict[str, str]

    async def cli(self, *words: str) -> tuple[int, str, str]:
        command = (sys.executable, "-m", "kakuremichi.cli", *words)
        process = await asyncio.create_subprocess_exec(
            *command, env=self.environ, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    async def join(self, role: str, name: str) -> "Node":
        code, line, said = await self.cli("token", "create", "--role", role, "--name", name)
        assert code == 0, said
        token, identity = parse_join_token(line.split()[1]), SigningKey.generate()
        endpoints = ("203.0.113.1:51820",) if role == "gateway" else ()
        request = request_to_enrol(
            token, identity, PrivateKey.generate().public(), networks=("192.168.7.0/24",),
            endpoints=endpoints,
        )  # fmt: skip
        headers = {"Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{token.url}/api/v1/enrol", data=encode_json(request), headers=headers) as response,
        ):
            assert response.status == 200, await response.text()
            answer = read_answer(token, await response.read())
        certificate = decode(answer.certificate.body, Certificate)
        assert (certificate.node_id, certificate.role) == (name, role)

        async def credentials() -> Credentials:
            return own_credentials(answer.bus.jwt, identity)

        options = NatsOptions(servers=(answer.bus.url,), name=name, inbox_prefix=subjects.reply_prefix(NodeId(name)))
        bus = await self.stack.enter_async_context(NatsBus(options, credentials))
        await bus.wait_connected(10)
        return Node(name, certificate.pool, bus)


@dataclass
class Node:
    """A gateway without a data plane: it says that it has applied what it hears."""

    name: str
    pool: str
    bus: NatsBus

    async def follow(self) -> None:
        await self.bus.subscribe(f"feed.pool.{self.pool}", self._apply)
        await self._report("", 0)
        await asyncio.sleep(0.2)

    async def _apply(self, message: Message) -> None:
        item = decode(decode(message.data, Signed).body, FeedItem)
        await self._report(item.log_id, item.feed_seq)

    async def _report(self, log_id: str, feed_seq: int) -> None:
        cursors = (Cursor(f"feed.pool.{self.pool}", log_id, feed_seq),) if log_id else ()  # type: ignore[arg-type]
        report = Report(node_id=NodeId(self.name), boot_id=bytes(16), version="test", tags=TAGS, cursors=cursors)
        reply = f"{subjects.reply_prefix(NodeId(self.name))}.report"
        await self.bus.publish(subjects.report(NodeId(self.name)), encode(report), reply=reply)


def said_by(log: Path) -> str:
    return log.read_text()


@asynccontextmanager
async def service(module: str, environ: dict[str, str], log: Path) -> AsyncIterator[None]:
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, env=environ, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0, said_by(log)


async def answers(url: str, log: Path) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(300):
            try:
                async with session.get(f"{url}/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.1)
    raise AssertionError(said_by(log))


@asynccontextmanager
async def running_deployment(folder: Path) -> AsyncIterator[Deployment]:
    """Everything started, until the block ends."""
    postgres = await asyncio.to_thread(embedded_postgres.start, folder / "pg")
    try:
        async with AsyncExitStack() as stack:
            nats = await stack.enter_async_context(running_server(folder))
            async with nats.bus("provision") as bus:
                await bus.wait_connected(10)
                await provision(bus)
            yield await deploy(folder, nats, postgres.dsn, stack)
    finally:
        await asyncio.to_thread(postgres.stop)


async def deploy(folder: Path, nats: NatsServer, dsn: str, stack: AsyncExitStack) -> Deployment:
    trust = init_trust(folder / "trust")
    url = f"http://127.0.0.1:{free_port()}"
    base = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    registry = base | {
        "KAKUREMICHI_DATABASE_URL": dsn,
        "KAKUREMICHI_TRUST_DIR": str(folder / "trust"),
        "KAKUREMICHI_NATS_URL": nats.url,
        "KAKUREMICHI_NATS_CREDENTIALS": str(nats.operator.credentials("registry")),
        "KAKUREMICHI_CLAIMS_CREDENTIALS": str(nats.operator.credentials("claims")),
        "KAKUREMICHI_ISSUER_DIR": str(nats.operator.registry),
        "KAKUREMICHI_TRACE_FILE": str(folder / "registry.spans"),
    }
    admin = add_token(folder / "api-tokens.json", "admin", "admin")
    (folder / "admin.token").write_text(admin)
    portal = base | {
        "KAKUREMICHI_NATS_URL": nats.url,
        "KAKUREMICHI_NATS_CREDENTIALS": str(nats.operator.credentials("portal")),
        "KAKUREMICHI_LISTEN": url.removeprefix("http://"),
        "KAKUREMICHI_PUBLIC_URL": url,
        "KAKUREMICHI_API_TOKENS": str(folder / "api-tokens.json"),
        "KAKUREMICHI_TRUST_SHA256": hashlib.sha256(trust.trust_set.body).hexdigest(),
        "KAKUREMICHI_NODE_NATS_URL": nats.url,
        "KAKUREMICHI_TRACE_FILE": str(folder / "portal.spans"),
    }
    await stack.enter_async_context(service("kakuremichi_registry", registry, folder / "registry.log"))
    await stack.enter_async_context(service("kakuremichi_portal", portal, folder / "portal.log"))
    await answers(url, folder / "portal.log")
    context = {"KAKUREMICHI_URL": url, "KAKUREMICHI_TOKEN_FILE": str(folder / "admin.token")}
    return Deployment(folder, url, nats, stack, base | context)
