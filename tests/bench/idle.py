"""What one idle WebSocket costs a gateway's HAProxy."""

import asyncio
import re
import resource
from contextlib import ExitStack
from pathlib import Path

from bench.harness import Figure
from bench.stage import Stage
from bench.streams import SERVICE, serve
from bench.websockets import connect
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.launch import find_running

_VM_RSS = re.compile(r"^VmRSS:\s+(\d+) kB$", re.MULTILINE)
WANTED = 10_000
WARM_UP = 100  # HAProxy's pools, the target's and the kernel's tables
PER_CONNECTION = 4.5  # descriptors under HAProxy's limit for each visitor it lets in, with a margin
RESERVED = 2_000


async def measure(stage: Stage) -> list[Figure]:
    await serve(stage)
    count = min(WANTED, int((_descriptors() - RESERVED) / PER_CONNECTION))
    kib = await asyncio.to_thread(kib_each, stage, count)
    short = "" if count == WANTED else f", as many as {_descriptors()} file descriptors allow of {WANTED}"
    return [Figure("idle_websocket_memory", kib, note=f"{count} idle WebSockets{short}; HAProxy's resident memory")]


def _descriptors() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def kib_each(stage: Stage, count: int) -> float:
    """Resident KiB that HAProxy has more with `count` open WebSockets than with none, for each. Blocks."""
    with ExitStack() as open_ones:

        def open_more(number: int) -> None:
            for _ in range(number):
                open_ones.enter_context(connect(stage.lab, "visitor", SERVICE.host_name, 80))

        open_more(WARM_UP)
        before = resident_kib(stage)
        open_more(count)
        return (resident_kib(stage) - before) / count


def resident_kib(stage: Stage) -> int:
    """Of all workers of gw1's HAProxy."""
    master = find_running(Layout(stage.fleet.node_host("gw1").haproxy))
    if master is None:
        raise RuntimeError("gateway gw1: its HAProxy does not run")
    try:
        children = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text().split()
    finally:
        master.forget()
    return sum(int(_VM_RSS.findall(Path(f"/proc/{child}/status").read_text())[0]) for child in children)
