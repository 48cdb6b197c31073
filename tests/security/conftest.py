"""Fixtures of the security tests: PostgreSQL and the bus in memory are those of the tests with real servers."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kakuremichi.bus.memory import MemoryNats
from kakuremichi.lab.internet import Lab
from kakuremichi.node import enrol as enrolling
from kakuremichi_portal import passwords
from real.conftest import dsn, nats, postgres, registry_world, trust
from support.key_fleet import running_fleet
from support.offline import Deployment, offline_deployment
from support.portal_https import PortalWorld, portal_over_https, quick_hashes
from support.real_registry import World

__all__ = ["dsn", "nats", "postgres", "registry_world", "trust"]


@pytest.fixture(scope="session")
def key_fleet() -> Iterator[tuple[Lab, Path]]:
    """The fleet whose keys are rotated, revoked and copied: its lab and its folder."""
    with running_fleet() as place:
        yield place


@pytest.fixture
def quick_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2id that costs nearly nothing, for tests that are about something else."""
    monkeypatch.setattr(passwords, "_hasher", quick_hashes())


@pytest.fixture
async def at(registry_world: World, tmp_path: Path, quick_passwords: None) -> AsyncIterator[PortalWorld]:
    """A portal over HTTPS in front of an empty registry."""
    async with portal_over_https(registry_world, tmp_path) as made:
        yield made


@pytest.fixture
async def offline(
    dsn: str, nats: MemoryNats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Deployment]:
    """Its trust keys are elsewhere; nodes ask again soon."""
    monkeypatch.setattr(enrolling, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(enrolling, "LONGEST_WAIT_S", 0.1)
    async with offline_deployment(dsn, nats, tmp_path) as made:
        yield made
