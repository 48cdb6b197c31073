"""Reading what a stream has stored, message by message and never by a consumer.

Who may create a consumer may have a stream's messages sent to any subject of the account. What is asked for one by one
comes wrapped in JSON, which nobody takes for a message of ours wherever it is sent.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from kakuremichi.bus.port import Bus, Message

AT_ONCE = 64  # requests under way, and messages of a page


@dataclass(slots=True)
class StreamReader:
    """Reads a stream from its beginning; each later reading gives what has come since the one before it."""

    bus: Bus
    stream: str
    _created: str = ""
    _after: int = 0

    async def pages(self) -> AsyncIterator[list[Message]]:
        """What stood in the stream when this began, oldest first; :class:`BusError` if it cannot be read.

        A stream that was made anew, or brought back to an earlier state, is read from its beginning. What is removed
        meanwhile is left out.
        """
        state = await self.bus.stream_state(self.stream)
        if state.created != self._created or state.last_seq < self._after:
            self._created, self._after = state.created, 0
        first = max(state.first_seq, self._after + 1)
        for start in range(first, state.last_seq + 1, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, state.last_seq + 1))
            found = await asyncio.gather(*(self.bus.stored(self.stream, number) for number in numbers))
            yield [message for message in found if message is not None]
            self._after = numbers[-1]
