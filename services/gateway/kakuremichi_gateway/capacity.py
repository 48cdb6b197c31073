"""How full the kernel's table of flows is. There is no event for it, so it is looked at."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from kakuremichi.dataplane.nftables.sizing import Use, read_use, use_warning

LOOK_S = 10.0


async def watch_capacity(
    warn: Callable[[str, str], None], stop: asyncio.Event, read: Callable[[], Use | None] = read_use
) -> None:
    """A warning in the report for as long as the table is too full."""
    sentence = ""
    while not stop.is_set():
        sentence = use_warning(read(), warned=bool(sentence))
        warn("conntrack", sentence)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), LOOK_S)
