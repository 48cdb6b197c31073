"""The pages are tried on a portal over HTTPS in front of the real registry."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kakuremichi_portal import passwords
from real.conftest import dsn, nats, postgres, registry_world, trust
from support.chromium import Page, chromium
from support.portal_https import PortalWorld, portal_over_https, quick_hashes
from support.real_registry import World

__all__ = ["dsn", "nats", "postgres", "registry_world", "trust"]


@pytest.fixture
async def at(registry_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PortalWorld]:
    monkeypatch.setattr(passwords, "_hasher", quick_hashes())
    async with portal_over_https(registry_world, tmp_path) as made:
        yield made


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    async with chromium(tmp_path) as made:
        yield made
        assert made.complaints == []
