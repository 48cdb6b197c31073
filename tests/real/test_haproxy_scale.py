"""Ten thousand services: correctness is asserted, times are printed."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from kakuremichi.dataplane.haproxy.desired import HttpService, Server
from kakuremichi.dataplane.haproxy.proxy import Haproxy
from kakuremichi.dataplane.haproxy.stats import read_stats
from support.haproxy import gateway, get, service, status, targets

SERVICES = 10_000


def one_of_many(number: int) -> HttpService:
    servers = (Server(f"t{n}", ip_address(f"10.{number >> 8}.{number & 255}.{n}"), 20_000) for n in (100, 101))
    return service(f"s{number}", *servers)


@asynccontextmanager
async def timed(what: str) -> AsyncIterator[None]:
    began = time.perf_counter()
    yield
    print(f"{what}: {(time.perf_counter() - began) * 1000:.1f} ms")  # noqa: T201


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_ten_thousand_services_are_loaded_compared_and_changed_one_at_a_time(
    run_dir: Path, free_port: Callable[[], int]
) -> None:
    everything = [one_of_many(number) for number in range(SERVICES)]
    async with (
        gateway(run_dir, f"80=127.0.0.1:{free_port()}", pool_size=1024) as rig,
        targets(free_port, "t") as (target,),
    ):
        async with timed("full load, with the reload that the pool needs"):
            report = await rig.reconciler.full(everything)
        assert (report.errors, report.reloaded) == ((), True)

        async with timed("full comparison without a difference"):
            assert (await rig.reconciler.compare()).outcomes == ()

        one = service("one", target.server(), host="one.example")
        took = []
        for turn in range(200):
            began = time.perf_counter()
            report = await (rig.reconciler.remove(one.id) if turn % 2 else rig.reconciler.put(one))
            took.append(time.perf_counter() - began)
            assert report.errors == ()
        took.sort()
        print(f"one change: p50 {took[100] * 1000:.2f} ms, p99 {took[198] * 1000:.2f} ms")  # noqa: T201

        await rig.reconciler.put(one)
        assert await status(rig.port, get("one.example")) == 200
        async with timed("saving the files"):
            await rig.reconciler.flush()
        async with timed("counters of all"):
            stats = await read_stats(rig.layout.admin_socket)
        assert sum(stat.counters.requests for stat in stats.values()) == 1

        async with timed("removal of all but one at run time"):
            report = await rig.reconciler.full([one])
        assert (report.errors, report.pending) == ((), ())
        async with timed("full load at run time, without a reload"):
            report = await rig.reconciler.full([one, *everything[: SERVICES - 1]])
        assert (report.errors, report.reloaded) == ((), False)
        held = await Haproxy(rig.layout).read()
        assert len(held.routes) == SERVICES
        assert sum(len(servers) for servers in held.servers.values()) == 2 * SERVICES - 1
        assert await status(rig.port, get("one.example")) == 200
