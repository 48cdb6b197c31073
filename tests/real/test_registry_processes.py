"""Registry and keyring as processes on a server of their own: started in any order, killed, started again."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from kakuremichi.bus.port import Bus, BusError
from kakuremichi.bus.provision import provision
from kakuremichi.bus.server import NatsServer, running_server
from kakuremichi.model.ids import NodeId, PoolName
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import decode_any, encode
from kakuremichi.wire.commands import AnyCommand, AnyResult, CreateToken, Enrolled, ListEvents, Written
from kakuremichi.wire.requests import Announce, KeyAccepted, KeyRefused
from kakuremichi_registry import embedded_postgres
from kakuremichi_registry.trust import init_trust
from support.real_registry import Enrollee, http, redeem

pytestmark = pytest.mark.timeout(120)


@dataclass
class Host:
    """A folder with everything of one server, and its processes by name."""

    folder: Path
    nats: NatsServer
    processes: dict[str, asyncio.subprocess.Process]

    async def start(self, name: str) -> None:
        arguments = [str(self.folder / "pg")] if name == "embedded_postgres" else []
        module = f"kakuremichi_registry.{name}" if name == "embedded_postgres" else f"kakuremichi_{name}"
        environment = {
            "KAKUREMICHI_DATABASE_URL": embedded_postgres.dsn(self.folder / "pg"),
            "KAKUREMICHI_TRUST_DIR": str(self.folder / "trust"),
            "KAKUREMICHI_NATS_URL": self.nats.url,
            "KAKUREMICHI_NATS_CREDENTIALS": str(self.nats.operator.credentials(name)),
            "KAKUREMICHI_CLAIMS_CREDENTIALS": str(self.nats.operator.credentials("claims")),
            "KAKUREMICHI_ISSUER_DIR": str(self.nats.operator.registry),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }
        with open(self.folder / f"{name}.log", "ab") as log:  # noqa: ASYNC230, PTH123  # a moment, in a test
            self.processes[name] = await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, *arguments, env=environment, stdout=log, stderr=log
            )

    async def end(self, name: str, signum: signal.Signals = signal.SIGTERM) -> int:
        process = self.processes.pop(name)
        if process.returncode is None:
            process.send_signal(signum)
        return await asyncio.wait_for(process.wait(), 30)


@pytest.fixture
async def host(run_dir: Path) -> AsyncIterator[Host]:
    init_trust(run_dir / "trust")
    async with running_server(run_dir / "nats") as server:
        made = Host(run_dir, server, {})
        async with server.bus("provision") as provisioner:
            await provisioner.wait_connected(10)
            await provision(provisioner)
        yield made
        for name in [name for name in made.processes if name != "embedded_postgres"]:
            await made.end(name)
        if "embedded_postgres" in made.processes:
            await made.end("embedded_postgres", signal.SIGINT)


async def ask(portal: Bus, command: AnyCommand, within_s: float = 60) -> AnyResult:
    """The answer, however long the registry needs to come up."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                answer = await portal.request(subjects.COMMAND, encode(command), timeout_s=5)
            except BusError:
                await asyncio.sleep(0.1)
                continue
            result: AnyResult = decode_any(answer.data, AnyResult, name="result")
            if getattr(result, "status", 0) != 503:
                return result
            await asyncio.sleep(0.1)


async def enrol(portal: Bus, name: str) -> Enrollee:
    secret_hash = name.encode().ljust(32, b"-")
    token = CreateToken(
        actor="admin", role="agent", node_id=NodeId(name), pool=PoolName("main"), secret_hash=secret_hash
    )
    assert isinstance(await ask(portal, token), Written)
    identity = SigningKey.generate()
    enrolled = await ask(portal, redeem(secret_hash, identity))
    assert isinstance(enrolled, Enrolled)
    return Enrollee(enrolled, identity)


async def announce(bus: Bus, node: Enrollee) -> KeyAccepted | KeyRefused:
    request = encode(Announce(announcement=node.announcement()))
    answer = await bus.request(subjects.announce(node.node_id), request, timeout_s=5)
    decided: KeyAccepted | KeyRefused = decode_any(answer.data, KeyAccepted | KeyRefused, name="answer")
    return decided


async def test_started_in_the_wrong_order_and_killed_in_between_they_serve(host: Host) -> None:
    for name in ("keyring", "registry", "embedded_postgres"):
        await host.start(name)
    async with AsyncExitStack() as stack:
        portal = await stack.enter_async_context(host.nats.bus("portal"))
        agent = await stack.enter_async_context(host.nats.bus("agent", node="site-a"))
        await portal.wait_connected(10)
        await agent.wait_connected(10)
        node = await enrol(portal, "site-a")
        assert isinstance(await announce(agent, node), KeyAccepted)

        await host.end("embedded_postgres", signal.SIGKILL)
        await host.start("embedded_postgres")
        assert isinstance(await ask(portal, http("one")), Written)

        await host.end("registry", signal.SIGKILL)
        await host.start("registry")
        assert isinstance(await ask(portal, http("two")), Written)
        events = await ask(portal, ListEvents(actor="admin"))
        assert [event.seq for event in getattr(events, "items", ())] == [1, 2, 3, 4, 5]

        for name in ("registry", "keyring"):
            assert await host.end(name) == 0, (host.folder / f"{name}.log").read_text()
    log = (host.folder / "registry.log").read_text() + (host.folder / "keyring.log").read_text()
    for path in ("trust.seed", "feed.seed"):
        assert (host.folder / "trust" / path).read_text() not in log
    assert host.nats.operator.credentials("registry").read_text().split("SEED-----")[1].split()[0] not in log


async def test_without_settings_every_fault_is_named(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kakuremichi_registry", env={"PATH": "/usr/bin:/bin"}, cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 78
    for name in ("DATABASE_URL", "TRUST_DIR", "NATS_URL", "NATS_CREDENTIALS"):
        assert f"KAKUREMICHI_{name}" in output.decode()


async def test_a_database_of_another_deployment_is_refused(host: Host) -> None:
    await host.start("embedded_postgres")
    await host.start("registry")
    async with host.nats.bus("portal") as portal:
        await portal.wait_connected(10)
        await ask(portal, ListEvents(actor="admin"))
    await host.end("registry")
    (host.folder / "trust").rename(host.folder / "old")
    init_trust(host.folder / "trust")
    await host.start("registry")
    assert await asyncio.wait_for(host.processes.pop("registry").wait(), 30) == 1
    assert "bring the two that belong together" in (host.folder / "registry.log").read_text()
