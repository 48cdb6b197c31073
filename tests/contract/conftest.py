"""What the contract suites are tried on: namespaces of the test's own, nft in one, buses, and their fakes."""

import os
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from contract.buses import Memory, Real, World
from kakuremichi.bus.provision import provision
from kakuremichi.bus.server import running_server
from kakuremichi.dataplane.nftables.device import NftTable, Table
from kakuremichi.dataplane.nftables.memory import MemoryTable
from support.own_namespace import own_namespace


@pytest.fixture(name="own_namespace")
def in_own_namespace() -> Iterator[None]:
    """The test runs in a network namespace without a name, which goes with the last process and socket in it."""
    with own_namespace():
        yield


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"kk-nft-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture(params=["memory", pytest.param("nft", marks=pytest.mark.root)])
def table(request: pytest.FixtureRequest) -> Table:
    if request.param == "memory":
        return MemoryTable()
    netns = request.getfixturevalue("netns")
    return table_in(netns)


def table_in(netns: str) -> NftTable:
    return NftTable("kk_contract", command=("ip", "netns", "exec", netns, "nft"))


@pytest.fixture(params=["memory", "real"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "memory":
        yield Memory()
        return
    async with running_server(tmp_path) as server, AsyncExitStack() as stack:
        real = Real(server, stack)
        await provision(await real.bus("provision"))
        yield real
