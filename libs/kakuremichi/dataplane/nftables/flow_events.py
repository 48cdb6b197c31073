"""What the kernel tells of our flows as it happens: begun, ended. Layout: linux/netfilter/nfnetlink_conntrack.h."""

import errno
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Self

from kakuremichi.dataplane.links.netlink import NETLINK_NETFILTER, Answer, NetlinkError, NetlinkSocket, attributes
from kakuremichi.dataplane.nftables.marks import GATEWAY_MARK, ROLE_MASK, Proto, number_of
from kakuremichi.model.addresses import IPAddress

NEW, DESTROY = 0x100, 0x102  # subsystem 1, messages 0 and 2
_GROUPS = 0x1 | 0x4  # NF_NETLINK_CONNTRACK_NEW, NF_NETLINK_CONNTRACK_DESTROY
_NFGENMSG = 4
_TUPLE_ORIG, _MARK, _COUNTERS_ORIG, _COUNTERS_REPLY = 1, 8, 9, 10
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_SOURCES = (1, 3)  # IPv4, IPv6
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_COUNTERS_BYTES = 2
_PROTOS: dict[int, Proto] = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}


@dataclass(frozen=True, slots=True)
class FlowEvent:
    """`port` is the public one. Bytes count whole packets, and only if the kernel counted them from the beginning."""

    ended: bool
    number: int  # of the service
    proto: Proto
    visitor: IPAddress
    visitor_port: int
    port: int
    bytes_in: int | None = None  # from the visitor
    bytes_out: int | None = None


def parse_event(answer: Answer) -> FlowEvent | None:
    """None for what is not a flow to a gateway's service. Raises NetlinkError for attributes that do not fit."""
    if answer.kind not in (NEW, DESTROY):
        return None
    found = dict(attributes(answer.body, _NFGENMSG))
    if _MARK not in found or _TUPLE_ORIG not in found:
        return None
    mark = int.from_bytes(found[_MARK], "big")
    if mark & ROLE_MASK != GATEWAY_MARK:
        return None
    try:
        parts = dict(attributes(found[_TUPLE_ORIG]))
        source = next(body for kind, body in attributes(parts[_TUPLE_IP]) if kind in _IP_SOURCES)
        proto = dict(attributes(parts[_TUPLE_PROTO]))
        return FlowEvent(
            ended=answer.kind == DESTROY,
            number=number_of(mark),
            proto=_PROTOS[proto[_PROTO_NUM][0]],
            visitor=ip_address(bytes(source)),
            visitor_port=int.from_bytes(proto[_PROTO_SRC_PORT], "big"),
            port=int.from_bytes(proto[_PROTO_DST_PORT], "big"),
            bytes_in=_bytes(found.get(_COUNTERS_ORIG)),
            bytes_out=_bytes(found.get(_COUNTERS_REPLY)),
        )
    except (KeyError, StopIteration, IndexError, ValueError):
        return None  # ours are always TCP or UDP with addresses and ports


def _bytes(counters: memoryview | None) -> int | None:
    for kind, body in attributes(counters) if counters is not None else ():
        if kind == _COUNTERS_BYTES:
            return int(struct.unpack(">Q", body)[0])
    return None


class FlowEvents:
    """A subscription in the network namespace it is made in. `lost` counts the times the kernel dropped some."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_NETFILTER, _GROUPS)
        self.lost = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    async def __aiter__(self) -> AsyncIterator[FlowEvent]:
        while True:
            try:
                answers = await self._socket.receive()
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost += 1
                continue
            for answer in answers:
                try:
                    event = parse_event(answer)
                except NetlinkError:
                    continue
                if event is not None:
                    yield event
