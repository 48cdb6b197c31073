"""Fixtures that any test may use: free ports, a short run folder, the lab."""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from kakuremichi.lab.internet import Lab

# Hypothesis counts an example of 200 ms as a failure, which on a busy machine says nothing about ours.
settings.register_profile(
    "untimed", parent=settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        skip = pytest.mark.skip(reason="needs root and network namespaces: run it with sudo")
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(skip)


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that returns a TCP port free on 127.0.0.1 a moment ago, another one at each call of the test."""
    given: set[int] = set()

    def take() -> int:
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port: int = probe.getsockname()[1]
            if port not in given:
                given.add(port)
                return port

    return take


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A new folder (0700) with a short path: the path of a unix socket has 107 bytes at most."""
    folder = Path(tempfile.mkdtemp(prefix="kk-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """One lab for the whole run. A test heals what it cut and ends what it started; it never takes the lab down."""
    internet = Lab(f"t{os.getpid()}-")
    internet.up(fresh=True, bound=True)
    yield internet
    internet.down()
