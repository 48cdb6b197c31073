"""A restarted node process adopts the running interface: a hundred kills lose no packet."""

import asyncio
import random
import sys
import time
from functools import partial

import pytest

from kakuremichi.fleet.lab_fleet import AGENTS, GATEWAYS, Fleet
from kakuremichi.lab.units import Unit
from support import truth, visits
from support.fleet import ended, eventually, log_size, logged, put
from support.loads import beating

pytestmark = [pytest.mark.root, pytest.mark.slow]

KILLS = 102
SITES = {"site-a": "127.0.0.1", "site-b": "127.0.0.1", "site-c": "10.1.0.50"}


def echo_unit(fleet: Fleet, agent: str) -> Unit:
    argv = (sys.executable, "-m", "kakuremichi.lab.targets", "--site", agent, "--udp", f"{SITES[agent]}:7900")
    return Unit(name=f"beat-{agent}", argv=argv, namespace=fleet.lab.namespace(agent))


async def kill_again_and_again(fleet: Fleet, name: str, times: int, seed: int) -> None:
    """SIGKILL at a random moment after each adoption; without the keeper's pause, which grows with quick deaths."""
    moments = random.Random(seed)
    for _ in range(times):
        pid = (await fleet.units.status())[name].pid
        assert pid is not None
        place = log_size(fleet, name)
        await fleet.units.kill(name)
        await ended(pid)
        await fleet.units.restart(name)
        await logged(fleet, name, "interface adopted", place)
        await asyncio.sleep(moments.choice((0.0, 0.05, 0.2, 0.5)))


@pytest.mark.timeout(240)
async def test_a_hundred_kills_of_nodes_lose_no_packet_of_a_flow_that_beats_every_5_ms(fleet: Fleet) -> None:
    doors = {}
    for place, (gateway, agent) in enumerate(zip(GATEWAYS, AGENTS, strict=True)):
        await fleet.units.start(echo_unit(fleet, agent))
        put(fleet, f"beat-{agent}", kind="udp", port=7900 + place,
            targets=[{"agent": agent, "address": SITES[agent], "port": 7900}])  # fmt: skip
        doors[f"{gateway} to {agent}"] = (fleet.lab.address(gateway), 7900 + place)
    for door in doors.values():
        await eventually(partial(visits.udp_echo, fleet.lab, *door, timeout=0.5))
    keys = {name: node.peers for name, node in (await truth.real(fleet, (*GATEWAYS, *AGENTS))).items()}

    began = time.monotonic()
    with beating(fleet.lab, doors) as beats:
        nodes = (*GATEWAYS, *AGENTS)
        await asyncio.gather(
            *(kill_again_and_again(fleet, name, KILLS // len(nodes), seed) for seed, name in enumerate(nodes))
        )
    took = time.monotonic() - began

    assert {beat.name: len(beat.lost) for beat in beats} == dict.fromkeys(doors, 0)
    assert all(beat.sent > took / 0.005 * 0.8 for beat in beats), f"{[beat.sent for beat in beats]} in {took:.0f} s"
    await fleet.all_live(nodes)
    assert {name: node.peers for name, node in (await truth.real(fleet, nodes)).items()} == keys
    for agent in AGENTS:
        await fleet.units.stop(f"beat-{agent}")
