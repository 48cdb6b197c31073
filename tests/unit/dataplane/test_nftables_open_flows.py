"""Which entries of the kernel's table of flows are open flows of a service."""

import struct

import pytest

from kakuremichi.dataplane.links.netlink import Answer, NetlinkError, attribute, nested
from kakuremichi.dataplane.nftables.marks import AGENT_MARK, mark_of
from kakuremichi.dataplane.nftables.open_flows import count_open

SYN_SENT, SYN_RECV, ESTABLISHED, CLOSE_WAIT, LAST_ACK, TIME_WAIT = 1, 2, 3, 5, 6, 7


def entry(mark: int | None, tcp_state: int | None = None, *, mark_first: bool = False) -> Answer:
    """As the kernel tells it: state and mark in either order, addresses and much else around them."""
    state = b"" if tcp_state is None else nested(4, nested(1, attribute(1, bytes([tcp_state])) + attribute(2, b"\x07")))
    told = b"" if mark is None else attribute(8, struct.pack(">I", mark))
    both = told + state if mark_first else state + told
    body = bytes(4) + nested(1, attribute(1, b"addresses")) + both + attribute(12, bytes(4))
    return Answer(0x100, memoryview(body))


@pytest.mark.parametrize("mark_first", [False, True])
def test_open_connections_are_counted_by_service_and_those_that_begin_or_have_ended_are_not(
    *, mark_first: bool
) -> None:
    states = (SYN_SENT, SYN_RECV, ESTABLISHED, CLOSE_WAIT, LAST_ACK, TIME_WAIT)
    tcp = [entry(mark_of(7), state, mark_first=mark_first) for state in states]

    assert count_open([*tcp, entry(mark_of(8), ESTABLISHED)]) == {7: 3, 8: 1}


def test_an_entry_of_udp_is_an_open_flow() -> None:
    assert count_open([entry(mark_of(9)), entry(mark_of(9))]) == {9: 2}


def test_flows_of_agents_of_others_and_of_nobody_are_left_out() -> None:
    assert count_open([entry(AGENT_MARK | 7), entry(0x12345678), entry(None)]) == {}


def test_attributes_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(NetlinkError, match="an attribute of"):
        count_open([Answer(0x100, memoryview(bytes(4) + b"\xff\x00\x01\x00"))])
