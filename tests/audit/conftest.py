"""Fixtures of the audit tests: PostgreSQL and the registry are those of the tests with real servers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog
from aiohttp.test_utils import TestClient, TestServer
from click.testing import CliRunner, Result

from kakuremichi.bus.memory import MemoryNats
from kakuremichi.cli.__main__ import cli
from kakuremichi.cli.context import save_context
from kakuremichi_portal.access import Tokens, add_token
from kakuremichi_portal.portal import Parts, build
from kakuremichi_portal.token_routes import JoinAnchor
from real.conftest import dsn, nats, postgres, registry_world, trust
from support.real_registry import World

__all__ = ["dsn", "nats", "postgres", "registry_world", "trust"]


@dataclass
class Deployment:
    """A registry, and a portal that the command line reaches over a socket."""

    world: World
    folder: Path

    async def cli(self, *words: str | Path, env: dict[str, str] | None = None) -> Result:
        """What `kakuremichi WORDS` does, in a thread: the portal answers meanwhile."""
        return await asyncio.to_thread(CliRunner().invoke, cli, [str(word) for word in words], env=env)

    async def good(self, *words: str | Path, env: dict[str, str] | None = None) -> Result:
        result = await self.cli(*words, env=env)
        assert result.exit_code == 0, (result.output, result.exception)
        return result

    async def export(self, name: str = "log.jsonl") -> Path:
        file = self.folder / name
        await self.good("audit", "export", "--output", file)
        return file


@pytest.fixture
async def deployment(
    registry_world: World, nats: MemoryNats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Deployment]:
    for name in ("KAKUREMICHI_URL", "KAKUREMICHI_TOKEN", "KAKUREMICHI_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAKUREMICHI_CONTEXT", str(tmp_path / "context.json"))
    tokens = tmp_path / "tokens.json"
    (tmp_path / "ann.token").write_text(add_token(tokens, "ann", "admin"))
    parts = Parts(
        bus=nats.connect("portal"), tokens=Tokens(tokens), anchor=JoinAnchor("http://control.test:8080", b"", b""),
        node_nats_url="nats://control.test:4222",
    )  # fmt: skip
    portal = build(parts)
    await portal.reports.listen()
    # Else the portal's log lines end up in the command's output.
    with structlog.testing.capture_logs():
        async with TestClient(TestServer(portal.app)) as client:
            save_context(str(client.make_url("")).rstrip("/"), tmp_path / "ann.token")
            yield Deployment(registry_world, tmp_path)
