"""The flow log names visitors, services and bytes of real flows, as the kernel tells of them."""

import asyncio
import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kakuremichi.dataplane.links.sysctl import ensure
from kakuremichi.dataplane.nftables import conntrack
from kakuremichi.dataplane.nftables.flow_events import FlowEvents
from kakuremichi.dataplane.nftables.marks import mark_of
from kakuremichi_gateway.flow_log import ACCOUNTING, FlowLog
from support.nftables_net import PUBLIC, PUBLIC6, SILENCE_S, VISITOR, VISITOR6, Net
from support.nftables_pair import TCP, UDP, apply

pytestmark = pytest.mark.root


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def until(path: Path, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(20):
        while len(lines(path)) < count:  # noqa: ASYNC110  # a file tells nobody
            await asyncio.sleep(0.02)
    return lines(path)


async def test_visitors_services_and_bytes_are_written_and_nothing_of_others(net: Net, tmp_path: Path) -> None:
    await apply(net, TCP, UDP)
    assert [setting.error for setting in net.inside("gw", lambda: ensure(ACCOUNTING))] == [None]
    path, stop = tmp_path / "flows.jsonl", asyncio.Event()
    names = {1: "database", 2: "resolver"}
    log = FlowLog(path, lambda number: names.get(number, ""), open_events=lambda: net.inside("gw", FlowEvents))
    running = asyncio.create_task(log.run(stop))

    async with (
        net.tcp_server("agent", "127.0.0.1", 5432, "tcp"),
        net.udp_server("agent", "127.0.0.1", 53, "udp"),
        net.tcp_server("gw", "::", 15080, "haproxy", transparent=True),
        net.tcp_server("gw", "0.0.0.0", 22, "ssh"),  # noqa: S104  # inside the namespace
    ):
        await asyncio.sleep(0)  # the subscription is made before the first visitor
        assert await net.greeting("visitor", VISITOR, PUBLIC, 22) == "ssh:22"
        assert await net.greeting("visitor", VISITOR, PUBLIC, 5432) == "tcp:5432"
        assert await net.greeting("visitor", VISITOR6, PUBLIC6, 5432) == "haproxy:15080"
        with net.bound("visitor", socket.SOCK_DGRAM, VISITOR) as sock:
            port = sock.getsockname()[1]
            await net.ask(sock, PUBLIC, 53)
        began = await until(path, 3)
        await conntrack.flush_all([mark_of(1), mark_of(2)], netns=net.netns("gw"))
        written = await until(path, 6)
    stop.set()
    await running

    assert [(line["event"], line["service"], line["visitor"], line["port"], line["proto"]) for line in began] == [
        ("open", "database", VISITOR, 5432, "tcp"),
        ("open", "database", VISITOR6, 5432, "tcp"),
        ("open", "resolver", VISITOR, 53, "udp"),
    ]
    (dns,) = [line for line in written if line["event"] == "end" and line["service"] == "resolver"]
    assert dns["visitor_port"] == port
    assert dns["bytes_in"] == 20 + 8 + 1
    assert dns["bytes_out"] == 20 + 8 + len("udp:53")
    assert path.stat().st_mode & 0o777 == 0o600


async def test_the_log_goes_on_in_a_new_file_when_the_old_one_was_moved(net: Net, tmp_path: Path) -> None:
    await apply(net, UDP)
    path, stop = tmp_path / "flows.jsonl", asyncio.Event()
    log = FlowLog(path, str, open_events=lambda: net.inside("gw", FlowEvents))
    running = asyncio.create_task(log.run(stop))
    await asyncio.sleep(0)

    async with net.udp_server("agent", "127.0.0.1", 53, "udp"):
        for number in range(2):
            with net.bound("visitor", socket.SOCK_DGRAM, VISITOR) as sock:
                await net.ask(sock, PUBLIC, 53)
            await until(path, 1)
            path.rename(tmp_path / f"flows.{number}")
    stop.set()
    await running

    assert [lines(tmp_path / f"flows.{number}")[0]["service"] for number in range(2)] == ["2", "2"]


async def test_a_subscriber_that_cannot_follow_goes_on_and_counts_it(net: Net) -> None:
    await apply(net, UDP)
    events = net.inside("gw", FlowEvents)
    events._socket._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least there is

    async with net.udp_server("agent", "127.0.0.1", 53, "udp"):
        for _ in range(40):
            with net.bound("visitor", socket.SOCK_DGRAM, VISITOR) as sock:
                await net.ask(sock, PUBLIC, 53)
        with events, suppress(TimeoutError):
            async with asyncio.timeout(SILENCE_S):
                async for event in events:
                    assert event.port == 53

    assert events.lost == 1
