"""Send again what the stream FEED has stored: `python replay.py URL CREDENTIALS CA`, where the bus is reached.

A program of its own, because a connection has to be made inside the network namespace. Prints how many were sent.
"""

import asyncio
import ssl
import sys
from contextlib import suppress

import nats
from nats.js.api import StreamInfo
from nats.js.errors import NotFoundError

# The subscribers of the feeds hear the message; the stream, which expects another place, does not store it twice.
NOT_STORED = {"Nats-Expected-Last-Sequence": "1"}


async def main(url: str, credentials: str, ca: str) -> None:
    client = await nats.connect(
        url,
        user_credentials=credentials,
        tls=ssl.create_default_context(cafile=ca),
        tls_handshake_first=True,
        inbox_prefix=b"_INBOX.registry",
    )
    stream = client.jetstream()
    info: StreamInfo = await stream.stream_info("FEED")
    sent = 0
    for sequence in range(info.state.first_seq, info.state.last_seq + 1):
        with suppress(NotFoundError):  # each subject keeps its last 64
            stored = await stream.get_msg("FEED", sequence)
            await client.publish(stored.subject or "", stored.data or b"", headers=NOT_STORED)
            sent += 1
    await client.flush()
    await client.close()
    print(sent)  # noqa: T201  (the result)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
