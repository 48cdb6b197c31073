"""What of the kernel's events becomes a line, and what is counted instead."""

import asyncio
import json
import struct
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.dataplane.links.netlink import Answer, NetlinkError, attribute, nested
from kakuremichi.dataplane.nftables.flow_events import DESTROY, NEW, FlowEvent, parse_event
from kakuremichi.dataplane.nftables.marks import AGENT_MARK, mark_of
from kakuremichi_gateway.flow_log import FlowLog

EVENT = FlowEvent(ended=False, number=5, proto="tcp", visitor=ip_address("198.51.100.7"), visitor_port=4000, port=5432)


def message(
    visitor: str = "198.51.100.7", proto: int = 6, mark: int | None = mark_of(5), counters: bool = False
) -> bytes:
    """As the kernel tells of a flow: the tuple of its first packet, its mark, and at its end what it carried."""
    address = ip_address(visitor)
    source, to = (1, 2) if address.version == 4 else (3, 4)
    ends = nested(1, attribute(source, address.packed) + attribute(to, address.packed))
    ports = nested(2, attribute(1, bytes([proto])) + attribute(2, struct.pack(">H", 4000)) + attribute(3, b"\x15\x38"))
    body = bytes(4) + nested(1, ends + ports)
    if mark is not None:
        body += attribute(8, struct.pack(">I", mark))
    if counters:
        for kind, size in ((9, 120), (10, 2**40)):
            body += nested(kind, attribute(1, struct.pack(">Q", 2)) + attribute(2, struct.pack(">Q", size)))
    return body


def parsed(kind: int, body: bytes) -> FlowEvent | None:
    return parse_event(Answer(kind, memoryview(body)))


@pytest.mark.parametrize("visitor", ["198.51.100.7", "2001:db8::7"])
def test_a_flow_is_told_with_its_visitor_and_its_public_port(visitor: str) -> None:
    event = parsed(NEW, message(visitor))

    assert event == FlowEvent(False, 5, "tcp", ip_address(visitor), 4000, 5432)


def test_a_flow_that_ended_has_its_bytes_if_they_were_counted() -> None:
    counted, uncounted = parsed(DESTROY, message(proto=17, counters=True)), parsed(DESTROY, message())

    assert counted is not None
    assert uncounted is not None
    assert (counted.ended, counted.proto, counted.bytes_in, counted.bytes_out) == (True, "udp", 120, 2**40)
    assert (uncounted.bytes_in, uncounted.bytes_out) == (None, None)


@pytest.mark.parametrize("mark", [None, 0, 5, AGENT_MARK | 5])
def test_flows_that_are_no_services_are_nobodys_business(mark: int | None) -> None:
    assert parsed(NEW, message(mark=mark)) is None


def test_other_messages_and_protocols_are_passed_over() -> None:
    assert parsed(0x101, message()) is None
    assert parsed(NEW, message(proto=1)) is None


@given(st.integers(0, 200), st.binary(max_size=8))
def test_a_message_cut_short_or_spoiled_is_an_error_of_the_socket_or_nothing(cut: int, tail: bytes) -> None:
    try:
        event = parsed(NEW, message()[:cut] + tail)
    except NetlinkError:
        return
    assert event is None or (event.proto, event.ended) == ("tcp", False)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_what_finds_no_room_is_counted_in_the_file(tmp_path: Path) -> None:
    log = FlowLog(tmp_path / "log", lambda _: "app", kept=2)
    for _ in range(5):
        log.take(EVENT)

    await log.write()

    *events, dropped = lines(tmp_path / "log")
    assert [event["service"] for event in events] == ["app", "app"]
    assert (dropped["dropped"], dropped["lost"]) == (3, 0)
    await log.write()
    assert len(lines(tmp_path / "log")) == 3  # said once


async def test_a_disk_that_refuses_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    log = FlowLog(tmp_path / "no-folder" / "log", lambda _: "app")
    log.take(EVENT)
    await log.write()
    (tmp_path / "no-folder").mkdir()
    log.take(EVENT)
    await log.write()

    written = lines(tmp_path / "no-folder" / "log")
    assert [line.get("dropped", line.get("service")) for line in written] == ["app", 1]


async def test_what_waits_at_the_end_is_written(tmp_path: Path) -> None:
    class Silence:
        lost = 0

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *raised: object) -> None:
            pass

        def __aiter__(self) -> "Silence":
            return self

        async def __anext__(self) -> FlowEvent:
            await asyncio.Event().wait()
            raise StopAsyncIteration

    log, stop = FlowLog(tmp_path / "log", lambda _: "app", open_events=Silence), asyncio.Event()  # type: ignore[arg-type]
    running = asyncio.create_task(log.run(stop))
    await asyncio.sleep(0)
    log.take(EVENT)
    stop.set()
    await running

    assert [line["event"] for line in lines(tmp_path / "log")] == ["open"]
