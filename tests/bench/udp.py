"""UDP through gateway, tunnel and agent against the same hops with plain routing: small packets, as many as go."""

import asyncio

from bench.harness import Figure, ratio
from bench.stage import Stage
from bench.tcp import BARE, PORT, SERVICE, iperf3, prepare
from kakuremichi.lab.internet import Lab

# Many short ones: on which core a stream's programs come to lie is drawn anew each time, and decides much.
PAIRS, SECONDS = 41, 1
PAYLOAD = 200  # bytes: the price is that of packets and not of bytes
BODY = {
    "kind": "udp",
    "port": PORT,
    "targets": [{"agent": SERVICE.agent, "address": SERVICE.address, "port": PORT}],
}


async def measure(stage: Stage) -> list[Figure]:
    gateway = await prepare(stage)
    with stage.fleet.api() as api:
        api.call("PUT", "/services/bench-udp?wait=applied&timeout=10", BODY)

    async def take(address: str) -> float:
        return await asyncio.to_thread(packets_per_second, stage.lab, address)

    return [await ratio("udp_packets_ratio", lambda: take(gateway), lambda: take(BARE), pairs=PAIRS)]


def packets_per_second(lab: Lab, address: str) -> float:
    """What arrived of a stream that the visitor sends as fast as he can."""
    total = iperf3(lab, address, "-u", "-b", "0", "-l", str(PAYLOAD), seconds=SECONDS)["end"]["sum"]
    return float(total["packets"] - total["lost_packets"]) / float(total["seconds"])
