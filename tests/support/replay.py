"""Send again what the stream FEED has stored: `python replay.py URL CREDENTIALS CA`, where the bus is reached.

A program of its own, because a connection has to be made inside the network namespace. Prints how many were sent.
"""

import asyncio
import sys
from pathlib import Path

import msgspec

from kakuremichi.bus import jetstream
from kakuremichi.bus.credentials import credentials_of
from kakuremichi.bus.nats import NatsBus, NatsOptions
from kakuremichi.runtime.tls import context_for

# The subscribers of the feeds hear the message; the stream, which expects another place, does not store it twice.
NOT_STORED = {"Nats-Expected-Last-Sequence": "1"}
GET = "$JS.API.STREAM.MSG.GET.FEED"


async def main(url: str, credentials: str, ca: str) -> None:
    options = NatsOptions(
        servers=(url,), name="replay", inbox_prefix="_INBOX.registry", tls=context_for((url,), Path(ca))
    )
    async with NatsBus(options, credentials_of(Path(credentials))) as bus:
        await bus.wait_connected(10)
        state, sent = await bus.stream_state("FEED"), 0
        for sequence in range(state.first_seq, state.last_seq + 1):
            answer = await bus.request(GET, msgspec.json.encode({"seq": sequence}), timeout_s=5)
            stored = jetstream.parse_stored("FEED", answer)
            if stored is not None:  # each subject keeps its last 64
                await bus.publish(stored.subject, stored.data, headers=NOT_STORED)
                sent += 1
        await bus.stream_state("FEED")  # a round trip: everything before it has arrived
    print(sent)  # noqa: T201  (the result)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
