"""What others notice of 100,000 SYN/s from one address."""

import asyncio
import re
import statistics
import sys
from pathlib import Path

from bench.harness import Figure, percentile, progress, ratio
from bench.rotation import RATE, WEB, serve
from bench.stage import Stage
from kakuremichi.dataplane.nftables.device import TABLE_NAME
from support.key_fleet import load

SYN_PER_S = 100_000
SECONDS = 10.0
PAIRS = 5
PAUSE_S = 1.0
LEAST_SYN_PER_S = 50_000  # the sender shares the cores; a smaller flood is another question
LEAST_REFUSED = 0.5  # a flood that did not arrive proves nothing; known flows, from ports that come again, pass
TESTS = Path(__file__).parents[1]
GATEWAY = "gw1"
_DROPPED = re.compile(r"counter packets (\d+)")


async def measure(stage: Stage) -> list[Figure]:
    await serve(stage)
    rates: list[float] = []

    async def quiet() -> float:
        return await p99_ms(stage)

    async def flooded() -> float:
        flood = asyncio.create_task(asyncio.to_thread(send, stage))
        try:
            return await p99_ms(stage)
        finally:
            rates.append(await flood)

    figure = await ratio("syn_flood_p99_ratio", flooded, quiet, pairs=PAIRS)
    if statistics.median(rates) < LEAST_SYN_PER_S:
        text = ", ".join(f"{rate:.0f}" for rate in rates)
        raise RuntimeError(
            f"flood: {text} SYN/s came about, {LEAST_SYN_PER_S} at least are wanted; p99 {figure.value:.2f}"
        )
    reached = f"{statistics.median(rates):.0f} SYN/s reached of {SYN_PER_S}, the sender on the same cores"
    return [Figure(figure.name, figure.value, figure.samples, reached)]


async def p99_ms(stage: Stage) -> float:
    """Of new connections of the visitor with one request each; one that fails ends the measurement."""
    await asyncio.sleep(PAUSE_S)
    with load(stage.lab, WEB, (GATEWAY,), RATE) as loads:
        await asyncio.sleep(SECONDS - 2 * PAUSE_S)
    if loads[0].failed:
        raise RuntimeError(f"{len(loads[0].failed)} requests failed, the first: {loads[0].failed[0]}")
    return percentile([ms for _, ms in loads[0].answered], 99)


def refused(stage: Stage) -> int:
    """Packets that the gateway's guards have dropped so far. Blocks."""
    chains = [
        stage.lab.run(GATEWAY, ["nft", "list", "chain", "inet", TABLE_NAME, name], check=True).stdout
        for name in ("syn_rate", "guard")
    ]
    return sum(int(count) for chain in chains for count in _DROPPED.findall(chain))


def send(stage: Stage) -> float:
    """The flood from `stranger` for SECONDS; SYNs a second that left. Blocks."""
    lab = stage.lab
    argv = [sys.executable, "-m", "bench.syn_flood", lab.address("stranger"), lab.address(GATEWAY), "80"]
    argv = ["env", f"PYTHONPATH={TESTS}", *argv, str(SYN_PER_S), str(SECONDS)]
    before = refused(stage)
    done = lab.run("stranger", argv, timeout=SECONDS + 15, check=True)
    if refused(stage) - before < LEAST_REFUSED * float(done.stdout) * SECONDS:
        raise RuntimeError(f"flood: {GATEWAY} refused {refused(stage) - before} of {done.stdout.strip()} SYN/s")
    progress(f"flood: {done.stdout.strip()} SYN/s")
    return float(done.stdout)
