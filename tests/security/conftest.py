"""Fixtures of the security tests: PostgreSQL and the bus in memory are those of the tests with real servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kakuremichi.lab.internet import Lab
from real.conftest import dsn, nats, postgres, registry_world, trust
from support.key_fleet import running_fleet

__all__ = ["dsn", "nats", "postgres", "registry_world", "trust"]


@pytest.fixture(scope="session")
def key_fleet() -> Iterator[tuple[Lab, Path]]:
    """The fleet whose keys are rotated, revoked and copied: its lab and its folder."""
    with running_fleet() as place:
        yield place
