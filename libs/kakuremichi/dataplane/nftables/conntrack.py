"""Ends flows: by their mark in one message to the kernel, whatever their number; or one by one, by who opened them."""

import errno
import socket
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from pyroute2 import AsyncConntrack
from pyroute2.netlink.exceptions import NetlinkError

from kakuremichi.dataplane.nftables.errors import DeviceError
from kakuremichi.dataplane.nftables.marks import AGENT_MARK, ROLE_MASK, mark_of, number_of
from kakuremichi.model.addresses import IPAddress

_EVERY_BIT = 0xFFFFFFFF
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


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


async def flush_from(sources: Iterable[IPAddress], *, netns: str | None = None) -> None:
    """Forget every flow to an agent's target that one of these gateways opened. Those of other gateways stay.

    Reads the whole table of an agent's flows, so it is for what happens rarely.
    """
    wanted = tuple(sources)
    try:
        for version in sorted({source.version for source in wanted}):
            family = _FAMILIES[version]
            # A listing and a deletion are of the one family that their socket was made for.
            async with AsyncConntrack(family, **({} if netns is None else {"netns": netns})) as conntrack:
                await _flush_from(conntrack, {str(source) for source in wanted if source.version == version})
    except (NetlinkError, OSError) as error:
        raise DeviceError(f"conntrack: the flows could not be flushed ({error})") from error


async def _flush_from(conntrack: AsyncConntrack, sources: AbstractSet[str]) -> None:
    # By the mark: asked for an IPv6 source, the kernel (6.18) tells of all flows but those that have it.
    found = await conntrack.dump_entries(mark=AGENT_MARK, mark_mask=ROLE_MASK)
    for entry in [entry async for entry in found if entry.tuple_orig.saddr in sources]:
        try:
            await conntrack.delete(entry)
        except NetlinkError as error:
            if error.code != errno.ENOENT:  # it may have ended by itself
                raise
