"""How many flows of each service are open now: counted in the kernel's table of flows, where nobody keeps such a sum.

Layout: linux/netfilter/nfnetlink_conntrack.h. The kernel tells only the flows that bear a gateway's mark, but looks at
all of them; each one told costs us some microseconds.
"""

import asyncio
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from kakuremichi.dataplane.links.netlink import NETLINK_NETFILTER, Answer, NetlinkSocket, attribute, attributes
from kakuremichi.dataplane.nftables.errors import DeviceError
from kakuremichi.dataplane.nftables.marks import GATEWAY_MARK, ROLE_MASK, number_of
from kakuremichi.dataplane.nftables.sizing import read_use

MOST_FLOWS = 100_000  # of the whole table; beyond it counting would take too long and too much memory

_GET = 0x101  # subsystem 1, message 1
_NFGENMSG = bytes(4)  # both families
_PROTOINFO, _MARK, _MARK_MASK = 4, 8, 21
_TCP_STATE_AT = 8  # behind the headers of CTA_PROTOINFO_TCP and CTA_PROTOINFO_TCP_STATE
# From SYN_RECV to CLOSE_WAIT: what only begins, or only waits until its numbers may be used again, is not open.
_OPEN_STATES = range(2, 6)


def _netfilter() -> NetlinkSocket:
    return NetlinkSocket(NETLINK_NETFILTER)


async def open_flows(connect: Callable[[], NetlinkSocket] = _netfilter) -> Mapping[int, int] | None:
    """By service number, 0 left out; None if the table is too full to count. In the caller's network namespace.

    A flow of UDP is open until nothing was heard of it for 30 s, 120 s if both sides spoke. Raises DeviceError.
    """
    use = read_use()
    if use is not None and use.count > MOST_FLOWS:
        return None
    mark, mask = struct.pack(">I", GATEWAY_MARK), struct.pack(">I", ROLE_MASK)
    try:
        with connect() as kernel:
            entries = await kernel.dump(_GET, _NFGENMSG + attribute(_MARK, mark) + attribute(_MARK_MASK, mask))
        return await asyncio.to_thread(count_open, entries)
    except OSError as error:
        raise DeviceError(f"conntrack: the open flows could not be counted ({error.strerror or error})") from error


def count_open(entries: Iterable[Answer]) -> Counter[int]:
    """Of the kernel's answers, by service number. Raises NetlinkError for attributes that do not fit."""
    counted: Counter[int] = Counter()
    for entry in entries:
        mark, protoinfo = 0, None
        for kind, payload in attributes(entry.body, len(_NFGENMSG)):  # kernels tell them in different orders
            if kind == _PROTOINFO:
                protoinfo = payload
            elif kind == _MARK:
                mark = int.from_bytes(payload, "big")
        if mark & ROLE_MASK == GATEWAY_MARK and _is_open(protoinfo):
            counted[number_of(mark)] += 1
    return counted


def _is_open(protoinfo: memoryview | None) -> bool:
    """TCP's state is the first thing inside; UDP has none, there the entry itself is all there is to say."""
    return protoinfo is None or len(protoinfo) <= _TCP_STATE_AT or protoinfo[_TCP_STATE_AT] in _OPEN_STATES
