"""What visitors notice when an agent or a gateway changes its WireGuard key."""

import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import Any

from bench.crowd import wait_applied
from bench.harness import Figure, progress
from bench.stage import SITE, Stage
from kakuremichi.fleet.lab_fleet import GATEWAYS, SERVICES
from support.key_fleet import Load, load

RATE = 100.0  # requests/s, each on a connection of its own
LEAST_OF_RATE = 0.9  # a load that did not come about proves nothing
ROUNDS = 5
QUIET_S, AFTER_S = 3.0, 6.0  # a lost handshake is repeated after 5 s
MARGIN_S = 0.5  # what began that shortly before is already part of it
ACCEPTED_S = 10.0
WEB = SERVICES[0]
ROTATED = "gw1"
OTHERS = tuple(name for name in GATEWAYS if name != ROTATED)


@dataclass(frozen=True, slots=True)
class Rotation:
    """One rotation under load: failed requests by gateway, and what the slowest took longer than the median before."""

    failed: dict[str, list[str]]
    added_ms: float
    accepted_ms: float


async def agent(stage: Stage) -> list[Figure]:
    """Through all three gateways, as each has to move to the new key."""
    await serve(stage)
    rounds = [await _under_load(stage, f"/agents/{SITE}", GATEWAYS, RATE) for _ in range(ROUNDS)]
    failed = [sum(map(len, one.failed.values())) for one in rounds]
    added = [one.added_ms for one in rounds]
    note = f"{ROUNDS} rotations at {RATE:g} requests/s; accepted after {_accepted(rounds)} ms"
    return [
        Figure("agent_rotation_failed", sum(failed), failed, note),
        Figure("agent_rotation_added_latency", max(added), added, note),
    ]


async def gateway(stage: Stage) -> list[Figure]:
    """RATE through the others, and as much through each as through the one that has the new key."""
    await serve(stage)
    rate = RATE / len(OTHERS) * len(GATEWAYS)
    rounds = [await _under_load(stage, f"/gateways/{ROTATED}", GATEWAYS, rate) for _ in range(ROUNDS)]
    failed = [sum(len(one.failed[name]) for name in OTHERS) for one in rounds]
    itself = sum(len(one.failed[ROTATED]) for one in rounds)
    note = (
        f"{ROUNDS} rotations at {RATE:g} requests/s through the others; {itself} failed through {ROTATED} itself,"
        f" slowest of all {max(one.added_ms for one in rounds):.0f} ms more; accepted after {_accepted(rounds)} ms"
    )
    return [Figure("gateway_rotation_failed", sum(failed), failed, note)]


def _accepted(rounds: list[Rotation]) -> str:
    return ", ".join(f"{one.accepted_ms:.0f}" for one in rounds)


async def serve(stage: Stage) -> None:
    """WEB runs and is published."""
    await stage.nodes()
    await stage.fleet.start_target(WEB)
    await stage.publish(WEB)


async def _under_load(stage: Stage, where: str, gateways: tuple[str, ...], rate: float) -> Rotation:
    with load(stage.lab, WEB, gateways, rate) as loads:
        await asyncio.sleep(QUIET_S)
        began = time.monotonic()
        accepted_ms = await asyncio.to_thread(_rotate, stage, where)
        await asyncio.sleep(AFTER_S)
        lasted = time.monotonic() - began + QUIET_S
    await asyncio.to_thread(wait_applied, stage)
    asked = sum(len(each.answered) + len(each.failed) for each in loads)
    if asked < LEAST_OF_RATE * rate * lasted:
        raise RuntimeError(f"load: {asked / lasted:.0f} requests/s came about, {rate:g} are wanted")
    before = statistics.median(_between(loads, 0.0, began - MARGIN_S))
    slowest = max(_between(loads, began - MARGIN_S, began + AFTER_S))
    failed = {each.gateway: each.failed for each in loads}
    progress(
        f"rotation of {where}: {asked} requests, {sum(map(len, failed.values()))} failed,"
        f" p50 before {before:.1f} ms, slowest {slowest:.1f} ms, accepted after {accepted_ms:.0f} ms"
    )
    return Rotation(failed, slowest - before, accepted_ms)


def _between(loads: list[Load], since: float, until: float) -> list[float]:
    return [ms for each in loads for at, ms in each.answered if since <= at < until]


def _rotate(stage: Stage, where: str) -> float:
    """Milliseconds until the registry has another key for the node. Blocks."""
    with stage.fleet.api() as api:
        before: dict[str, Any] = api.get(where)
        began = time.monotonic()
        api.call("POST", f"{where}/rotate")
        while api.get(where)["public_key"] == before["public_key"]:
            if time.monotonic() - began > ACCEPTED_S:
                raise TimeoutError(f"{where}: still has its old key {ACCEPTED_S:g} s after it was to have another")
            time.sleep(0.02)
    return (time.monotonic() - began) * 1000
