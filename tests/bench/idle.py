"""What one idle WebSocket costs a gateway's HAProxy."""

import asyncio
import itertools
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
from kakuremichi.lab import namespaces
from kakuremichi.lab.topology import UPLINK

_VM_RSS = re.compile(r"^VmRSS:\s+(\d+) kB$", re.MULTILINE)
NAME = "idle_websocket_memory"
COUNT = 10_000
WARM_UP = 100  # HAProxy's pools, the target's and the kernel's tables
# A gateway lets one address have 4,096 connections, so there are several visitors.
VISITORS = tuple(f"198.51.100.{number}" for number in (101, 102, 103, 104))
PER_CONNECTION = 4.5  # descriptors under HAProxy's limit for each visitor it lets in, with a margin
RESERVED = 2_000


async def measure(stage: Stage) -> list[Figure]:
    await serve(stage)
    lines = [f"addr replace {address}/24 dev {UPLINK}" for address in VISITORS]
    namespaces.ip_batch(stage.lab.namespace("visitor"), lines)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    count = min(COUNT, int((limit - RESERVED) / PER_CONNECTION))
    kib = await asyncio.to_thread(kib_each, stage, count)
    short = "" if count == COUNT else f", as many as {limit} file descriptors allow of {COUNT}"
    note = f"{count} idle WebSockets of {len(VISITORS)} visitors{short}; HAProxy's resident memory"
    return [Figure(NAME, kib, note=note)]


def kib_each(stage: Stage, count: int) -> float:
    """Resident KiB that HAProxy has more with `count` open WebSockets than with none, for each. Blocks."""
    visitors = itertools.cycle(VISITORS)
    with ExitStack() as open_ones:

        def open_more(number: int) -> None:
            for address, _ in zip(visitors, range(number), strict=False):
                open_ones.enter_context(connect(stage.lab, "visitor", SERVICE.host_name, 80, address=address))

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
