"""How long after the API call the last gateway has removed a revoked agent."""

import asyncio
import random
import statistics

from bench.changes import PAUSE_S
from bench.crowd import enrol_crowd
from bench.harness import Figure, progress
from bench.stage import Stage
from kakuremichi.dataplane.wireguard.userspace import UserspaceDevice
from kakuremichi.fleet.lab_fleet import GATEWAYS
from kakuremichi.model.keys import key_text

WARM_UP, COUNT = 3, 30


async def measure(stage: Stage) -> list[Figure]:
    """Agents of the crowd, one after another; the first WARM_UP are not counted."""
    await stage.nodes()
    names = [f"victim-{number}" for number in range(1, WARM_UP + COUNT + 1)]
    await enrol_crowd(stage, names)
    samples = [await _revoke(stage, name) for name in names][WARM_UP:]
    progress(f"{COUNT} revocations: median {statistics.median(samples):.1f} ms, slowest {max(samples):.1f} ms")
    note = f"the slowest of {COUNT}, median {statistics.median(samples):.1f} ms; the gateway's report included"
    return [Figure("revocation_last_gateway", max(samples), samples, note)]


async def _revoke(stage: Stage, name: str) -> float:
    """Milliseconds until the last gateway's report; that it is true is read from each gateway's WireGuard."""
    await asyncio.sleep(random.uniform(*PAUSE_S))
    key, applied = await asyncio.to_thread(_ask, stage, name)
    if missing := set(GATEWAYS) - applied.keys():
        raise RuntimeError(f"revocation of {name}: not applied on {', '.join(sorted(missing))}")
    for gateway in GATEWAYS:
        if key in await _peers(stage, gateway):
            raise RuntimeError(f"gateway {gateway}: reported {name} as removed, and still has the peer")
    return max(applied[gateway] for gateway in GATEWAYS)


def _ask(stage: Stage, name: str) -> tuple[str, dict[str, float]]:
    """(the agent's public key, node → ms), as the API tells them. Blocks."""
    with stage.fleet.api() as api:
        key: str = api.get(f"/agents/{name}")["public_key"]
        _, answer = api.call("POST", f"/agents/{name}/revoke?wait=applied&timeout=5")
    return key, {one["node"]: float(one["ms"]) for one in answer["applied"]}


async def _peers(stage: Stage, gateway: str) -> set[str]:
    device = UserspaceDevice(stage.fleet.node_host(gateway).interface)
    try:
        return {key_text(key) for key in (await device.read()).peers}
    finally:
        device.close()
