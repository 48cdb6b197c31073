"""What a change costs with few agents and with many."""

import asyncio
import statistics

from bench.changes import WARM_UP, Change, http_requests, make_changes, show
from bench.crowd import grow
from bench.harness import Figure
from bench.spans import SPANS_S, read_traces
from bench.stage import Stage

FEW, MANY = 10, 2000
COUNT, BLOCK = 60, 12


async def one_change(stage: Stage) -> list[Figure]:
    """p50 until applied on three gateways with MANY agents ÷ with FEW. One of them is real, the target is there."""
    await stage.nodes()
    await grow(stage, FEW - 1)
    few = await asyncio.to_thread(make_changes, stage, http_requests(COUNT + WARM_UP, name="few"))
    await grow(stage, MANY - 1)
    many = await asyncio.to_thread(make_changes, stage, http_requests(COUNT + WARM_UP, name="many"))
    await asyncio.sleep(SPANS_S)
    traces = read_traces(stage.directory)
    show(f"{FEW} agents", few, traces)
    show(f"{MANY} agents", many, traces)
    small, large = _p50(few), _p50(many)
    note = f"p50 {large:.1f} ms with {MANY} agents, {small:.1f} ms with {FEW}"
    samples = [_p50(block) / small for block in _blocks(many)]
    return [Figure("one_change_2000_agents_ratio", large / small, samples, note)]


def _p50(changes: list[Change]) -> float:
    return statistics.median(change.ms for change in changes)


def _blocks(changes: list[Change]) -> list[list[Change]]:
    return [changes[start : start + BLOCK] for start in range(0, len(changes), BLOCK)]
