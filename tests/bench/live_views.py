"""Many open live views while changes are made: from the request to the moment that each view has the event."""

import asyncio
import re
import time
from collections.abc import Sequence

from bench.api import LINES, as_deployed, body_of, in_line
from bench.crowd import in_control
from bench.harness import Figure, percentile, progress
from bench.http_line import Door, HttpLine
from bench.stage import Stage
from kakuremichi_portal.access import add_token

VIEWS = 500
PER_TOKEN = 90  # the portal allows a hundred for each caller
CHANGES_PER_S = 50
SLOWEST = 0.9 * CHANGES_PER_S
SECONDS = 10
_EVENT = re.compile(rb"^id: (\d+)$", re.MULTILINE)
LAST_WITHIN_S = 3.0


async def measure(stage: Stage) -> list[Figure]:
    await stage.nodes()
    tokens = stage.fleet.control.directory / "api-tokens.json"
    doors = [Door.of(stage, add_token(tokens, f"live-{number}", "read")) for number in range(-(-VIEWS // PER_TOKEN))]
    async with as_deployed(stage), in_line(stage) as writer:
        samples, rate = await in_control(stage, lambda: watch_changes(doors, writer))
    ms = [sample * 1000 for sample in samples]
    progress(f"{VIEWS} live views, {rate:.0f} changes/s, {len(samples)} deliveries")
    if len(samples) != VIEWS * CHANGES_PER_S * SECONDS:
        raise RuntimeError(f"{len(samples)} of {VIEWS * CHANGES_PER_S * SECONDS} events came")
    if rate < SLOWEST:
        raise RuntimeError(f"{rate:.1f} changes/s were made, {CHANGES_PER_S} are asked for")
    note = f"{VIEWS} views, {rate:.1f} changes/s, every event came to every view; p50 {percentile(ms, 50):.0f} ms"
    return [Figure("live_delay_p99", percentile(ms, 99), ms, note)]


async def watch_changes(doors: Sequence[Door], writer: Door) -> tuple[list[float], float]:
    """(seconds of every delivery, changes per second)."""
    lines = [await HttpLine.open(doors[number // PER_TOKEN]) for number in range(VIEWS)]
    arrivals: list[dict[int, float]] = [{} for _ in lines]
    readers = [await line.watch() for line in lines]
    watching = [asyncio.create_task(_watch(*pair)) for pair in zip(readers, arrivals, strict=True)]
    await asyncio.sleep(1)
    try:
        began = time.monotonic()
        sent = await _make_changes(writer)
        rate = len(sent) / (time.monotonic() - began)
        await asyncio.sleep(LAST_WITHIN_S)
    finally:
        for task in watching:
            task.cancel()
        for line in lines:
            line.close()
    samples = [seen[seq] - at for seen in arrivals for seq, at in sent.items() if seq in seen]
    return samples, rate


async def _watch(reader: asyncio.StreamReader, seen: dict[int, float]) -> None:
    rest = b""
    while piece := await reader.read(65536):
        now = time.monotonic()
        whole, newline, rest = (rest + piece).rpartition(b"\n")
        for seq in _EVENT.findall(whole + newline):
            seen.setdefault(int(seq), now)


async def _make_changes(door: Door) -> dict[int, float]:
    """`seq` → when its request was sent; at an even pace, by as many connections as it takes."""
    sent: dict[int, float] = {}
    numbers = iter(range(CHANGES_PER_S * SECONDS))
    began = time.monotonic()

    async def work(line: HttpLine, name: str) -> None:
        for number in numbers:
            await asyncio.sleep(max(0.0, began + number / CHANGES_PER_S - time.monotonic()))
            at = time.monotonic()
            _, answer = await line.call("PUT", f"/services/{name}", body_of(name, 9001 + number))
            sent[int(answer["seq"])] = at

    lines = [await HttpLine.open(door) for _ in range(LINES)]
    try:
        await asyncio.gather(*(work(line, f"api-{number}") for number, line in enumerate(lines)))
    finally:
        for line in lines:
            line.close()
    return sent
