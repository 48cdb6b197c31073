"""A deployment whose trust keys never see the server: a registry, a portal on a real socket, three keys in drawers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from click.testing import CliRunner

from kakuremichi.bus.memory import MemoryNats
from kakuremichi.cli.__main__ import cli
from kakuremichi.node.enrol import enrol
from kakuremichi.node.state import Enrolment, NodeState
from kakuremichi.wire import commands, signing
from kakuremichi.wire.enrolment import parse_join_token
from kakuremichi_portal.access import Tokens, add_token
from kakuremichi_portal.portal import Parts, build
from kakuremichi_portal.token_routes import JoinAnchor
from kakuremichi_registry.trust import open_trust
from support.real_registry import World, world


@dataclass
class Deployment:
    """A server without trust keys, and the sticks in three drawers."""

    registry: World
    url: str
    token_file: Path
    folder: Path
    mishaps: list[int]  # statuses with which the portal answers the next enrolments, none of them its own

    def key(self, number: int) -> Path:
        return self.folder / f"stick-{number}" / f"trust-{number}.key"

    async def cli(self, *words: str, code: int = 0) -> str:
        """Run the command line in a thread: what it asks, the portal of this test's loop answers."""
        online = ("--url", self.url, "--token-file", str(self.token_file)) if words[1] in ("pending", "submit") else ()
        result = await asyncio.to_thread(CliRunner().invoke, cli, [*words, *online])
        assert result.exit_code == code, result.output
        return result.output

    async def signed_by(self, pending: Path, number: int, *options: str) -> Path:
        copy = pending.with_name(f"signed-{number}-{len(options)}.json")
        copy.write_bytes(pending.read_bytes())  # noqa: ASYNC240  # a few hundred bytes
        await self.cli("trust", "sign", str(copy), "--key", str(self.key(number)), "--yes", *options)
        return copy

    async def join_token(self, name: str, role: str) -> str:
        made = await asyncio.to_thread(
            CliRunner().invoke, cli,
            ["token", "create", "--role", role, "--name", name,
             "--url", self.url, "--token-file", str(self.token_file)],
        )  # fmt: skip
        # CliRunner swaps the standard output of the whole process, so this test's own log lines come along.
        line = next(line for line in made.stdout.splitlines() if line.startswith("echo kk1."))
        return line.split()[1]

    async def begin(self, name: str, role: str = "agent") -> "asyncio.Task[Enrolment]":
        """A node that has redeemed its token and waits."""
        token = parse_join_token(await self.join_token(name, role))
        state = NodeState(self.folder / name)
        state.open()
        task = asyncio.create_task(enrol(state, token, networks=("192.168.7.0/24",)))
        await self.until(lambda states: states.get(name) == "pending", role)
        return task

    async def sign(self) -> None:
        """Two of the three keys sign all that waits."""
        pending = self.folder / "to-sign.json"
        await self.cli("trust", "pending", "-o", str(pending))
        for number in (1, 3):
            await self.cli("trust", "sign", str(pending), "--key", str(self.key(number)), "--yes")
        await self.cli("trust", "submit", str(pending))

    async def until(self, ready: "Callable[[dict[str, str]], bool]", role: str = "agent") -> None:
        while True:
            answer = await self.registry.ask(commands.ListNodes(actor="test", role=role))  # type: ignore[arg-type]
            assert isinstance(answer, commands.Nodes)
            if ready({view.node_id: view.state for view in answer.items}):
                return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[int]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


def _mishaps(statuses: list[int]) -> Middleware:
    @web.middleware
    async def fail(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/api/v1/enrol" and statuses:
            return web.Response(status=statuses.pop(0))
        return await handler(request)

    return fail


@asynccontextmanager
async def offline_deployment(dsn: str, nats: MemoryNats, tmp_path: Path) -> AsyncIterator[Deployment]:
    """Two of its three keys have to agree."""
    sticks = [str(tmp_path / f"stick-{number}") for number in (1, 2, 3)]
    made = await asyncio.to_thread(
        CliRunner().invoke, cli, ["trust", "init", "--keys", "3", "--threshold", "2", *sticks]
    )
    assert made.exit_code == 0, made.output
    trust = open_trust(tmp_path / "stick-1" / "server")
    api_tokens = tmp_path / "api-tokens.json"
    token_file = tmp_path / "admin.token"
    token_file.write_text(add_token(api_tokens, "ann", "admin"))
    portal_bus = nats.connect("portal")
    async with world(dsn, trust, nats.connect("registry"), portal_bus) as registry:
        # The anchor's address is known only once the socket is open: the routes read it through this one object.
        anchor = JoinAnchor("http://127.0.0.1:1", b"", signing.digest_of(trust.trust_set))
        parts = Parts(bus=portal_bus, tokens=Tokens(api_tokens), anchor=anchor, node_nats_url="tls://bus.test:4222",
                      enrol_burst=10_000)  # fmt: skip
        mishaps: list[int] = []
        app = build(parts).app
        app.middlewares.append(_mishaps(mishaps))
        async with serving(app) as port:
            object.__setattr__(anchor, "url", f"http://127.0.0.1:{port}")
            yield Deployment(registry, f"http://127.0.0.1:{port}", token_file, tmp_path, mishaps)
