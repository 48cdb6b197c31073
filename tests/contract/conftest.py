"""Network namespaces of the test's own, for what must not be tried on the machine itself."""

import ctypes
import os
import subprocess
import uuid
from collections.abc import Iterator

import pytest

from kakuremichi.dataplane.nftables.device import NftTable, Table
from kakuremichi.dataplane.nftables.memory import MemoryTable

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)  # os.unshare came with Python 3.12


@pytest.fixture
def own_namespace() -> Iterator[None]:
    """The test runs in a network namespace without a name, which goes with the last process and socket in it."""
    with open("/proc/thread-self/ns/net", "rb") as home:  # noqa: PTH123  (a file descriptor is wanted)
        if _libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "a network namespace of its own needs root")
        try:
            yield
        finally:
            if _libc.setns(home.fileno(), _CLONE_NEWNET) != 0:
                os._exit(70)  # every later test would run in the wrong network


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
