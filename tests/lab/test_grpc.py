"""gRPC at a site: calls of every kind, their trailers and status codes, through every gateway."""

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kakuremichi.fleet.lab_fleet import GATEWAYS, Fleet
from kakuremichi.lab.units import Unit
from support import grpc_echo, visits
from support.fleet import eventually, put

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]  # whoever comes first starts the fleet

HOST = "grpc.lab.test"
PORT = 9960
PROGRAM = (sys.executable, grpc_echo.__file__)
EVERYTHING = {
    "said": "hello",
    "trailers": {"x-answered-by": "site"},
    "large": True,
    "counted": True,
    "joined": "a b c",
    "chat": ["WHO", "IS", "THERE"],
    "refused": ["FAILED_PRECONDITION", "not on Sundays: 50% off"],
    "unknown": ["UNIMPLEMENTED"],
    "cancelled": "yes",
}


@pytest.fixture(autouse=True)
async def published(fleet: Fleet) -> AsyncIterator[None]:
    """A gRPC server on the loopback of site-a, which speaks HTTP/2 in clear."""
    argv = (*PROGRAM, "serve", f"127.0.0.1:{PORT}")
    log = str(fleet.directory / "grpc.log")
    await fleet.units.start(Unit(name="grpc", argv=argv, namespace=fleet.lab.namespace("site-a"), log=log))
    await eventually(lambda: visits.outcome(fleet.lab, "site-a", "127.0.0.1", PORT) == "open", within_s=30)
    target = {"agent": "site-a", "port": PORT}
    put(fleet, "grpc", kind="http", host=HOST, targets=[target], options={"upstream": {"protocol": "h2c"}})
    yield
    await fleet.units.stop("grpc")


def brought(fleet: Fleet, address: str, *trusted: Path) -> Any:
    done = fleet.lab.run("visitor", [*PROGRAM, "visit", address, HOST, *map(str, trusted)], timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def test_every_kind_of_call_over_tls_through_every_gateway(fleet: Fleet) -> None:
    trusted = fleet.directory / "certificates" / "lab.pem"

    for gateway in GATEWAYS:
        assert brought(fleet, f"{fleet.lab.address(gateway)}:443", trusted) == EVERYTHING


async def test_the_same_by_ipv6_and_in_clear(fleet: Fleet) -> None:
    assert (
        brought(fleet, f"[{fleet.lab.address6('gw1')}]:443", fleet.directory / "certificates" / "lab.pem") == EVERYTHING
    )
    assert brought(fleet, f"{fleet.lab.address('gw1')}:80") == EVERYTHING
