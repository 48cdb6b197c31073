"""One large download, and small WebSocket messages, through the gateway against a static HAProxy on the same path."""

import asyncio
from collections.abc import Callable

from bench.harness import Figure, ratio
from bench.stage import SITE, Stage
from bench.web import Ports, start_static
from bench.websockets import messages_per_second
from kakuremichi.fleet.lab_fleet import PrivateService
from kakuremichi.lab.internet import Lab

BYTES = 256 * 1024 * 1024
SERVICE = PrivateService("bench-stream", SITE, SITE, "192.168.10.10", 8090)
STATIC_STREAM = Ports(8082, 8445)
PAIRS = 5


async def download(stage: Stage) -> list[Figure]:
    return [await _ratio(stage, "large_download_ratio", megabytes_per_second)]


async def websocket(stage: Stage) -> list[Figure]:
    return [await _ratio(stage, "websocket_messages_ratio", messages_per_second)]


async def serve(stage: Stage) -> tuple[str, int]:
    """Start and publish what sends large bodies and echoes WebSockets; where it is in the tunnel."""
    await stage.nodes()
    await stage.fleet.start_target(SERVICE)
    return await stage.publish(SERVICE)


async def _ratio(stage: Stage, name: str, value: Callable[[Lab, str, int], float]) -> Figure:
    """`value` of (lab, host name, port) through the gateway ÷ through the static HAProxy."""
    await start_static(stage, "stream", SERVICE.host_name, await serve(stage), STATIC_STREAM)

    async def take(port: int) -> float:
        return await asyncio.to_thread(value, stage.lab, SERVICE.host_name, port)

    return await ratio(name, lambda: take(80), lambda: take(STATIC_STREAM.http), pairs=PAIRS)


def megabytes_per_second(lab: Lab, host_name: str, port: int) -> float:
    """One body of BYTES, taken by curl."""
    wanted = "%{http_code} %{size_download} %{speed_download}"
    url = f"http://{host_name}:{port}/bytes/{BYTES}"
    done = lab.run("visitor", ["curl", "-sS", "-o", "/dev/null", "-w", wanted, url], timeout=30)
    words = done.stdout.split()
    if words[:2] != ["200", str(BYTES)]:
        raise RuntimeError(f"curl {url}: {done.stdout} {done.stderr.strip()}")
    return float(words[2]) / 1e6
