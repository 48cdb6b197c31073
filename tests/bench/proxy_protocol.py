"""New connections/s of a TCP service that is told the visitor's address, against a HAProxy written by hand."""

import asyncio

from bench.harness import Figure, ratio
from bench.stage import SITE, Stage
from bench.web import haproxy_unit, limits, reachable, requests_per_second, start_target
from kakuremichi.fleet.lab_fleet import PrivateService

SERVICE = PrivateService("bench-told", SITE, SITE, "192.168.10.10", 8089, public_port=8601)
PAIRS = 5
STATIC_PORT = 8602  # of static/proxy_protocol.cfg
NEW_EACH = ("-H", "Connection: close")  # wrk opens a connection for each request


async def measure(stage: Stage) -> list[Figure]:
    await stage.nodes()
    await start_target(stage, SITE, SERVICE.address)
    told = {**SERVICE.body, "options": {"upstream": {"proxy_protocol": 2}}}
    address, port = await stage.publish_as(SERVICE, told)
    words = {"BENCH_TARGET": f"{address}:{port}", **limits()}
    await stage.fleet.units.start(haproxy_unit(stage, "told", "proxy_protocol", "gw1", words))
    gateway = stage.lab.address("gw1")
    for port in (SERVICE.public_port, STATIC_PORT):
        await reachable(stage, gateway, port)

    async def take(port: int) -> float:
        url = f"http://{gateway}:{port}/"
        return await asyncio.to_thread(requests_per_second, stage.lab, url, *NEW_EACH, seconds=4)

    figure = await ratio(
        "proxy_protocol_ratio", lambda: take(SERVICE.public_port), lambda: take(STATIC_PORT), pairs=PAIRS
    )
    return [figure]
