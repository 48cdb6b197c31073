"""Ends flows by their mark: one message to the kernel, whatever their number."""

from collections.abc import Iterable

from pyroute2 import AsyncConntrack
from pyroute2.netlink.exceptions import NetlinkError

from kakuremichi.dataplane.nftables.errors import DeviceError
from kakuremichi.dataplane.nftables.marks import mark_of, number_of

_EVERY_BIT = 0xFFFFFFFF


async def flush(mark: int, *, netns: str | None = None) -> None:
    """Forget every flow with this mark, both families.

    The next datagram of a UDP flow is then looked up anew; an established TCP connection is answered with a reset,
    unless its target is still the same. Flows of other marks stay.
    """
    await flush_all((mark,), netns=netns)


async def flush_all(marks: Iterable[int], *, netns: str | None = None) -> None:
    """:func:`flush` for several marks over one socket."""
    wanted = sorted(set(marks))
    for mark in wanted:
        # Without a mark the kernel would flush everything, with 0 everybody's unmarked flows.
        if number_of(mark) == 0 or mark_of(number_of(mark)) != mark:
            raise ValueError(f"mark {mark:#x}: not one of ours")
    if not wanted:
        return
    try:
        async with AsyncConntrack(**({} if netns is None else {"netns": netns})) as conntrack:
            for mark in wanted:
                await conntrack.flush(mark=mark, mark_mask=_EVERY_BIT)
    except (NetlinkError, OSError) as error:
        raise DeviceError(f"conntrack: the flows could not be flushed ({error})") from error
