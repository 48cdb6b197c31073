"""The live view: everybody gets the same bytes, who is slow is cut off, and floods of streams are refused."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest

from kakuremichi.bus.port import Message
from kakuremichi.model.ids import LogId, NodeId
from kakuremichi.wire.facts import LoggedFact
from kakuremichi.wire.requests import Cursor, ItemError, Report
from kakuremichi_portal.live import END, QUEUE, Live
from kakuremichi_portal.problems import ProblemError
from unit.portal.world import World

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def fact(seq: int) -> Message:
    logged = LoggedFact(
        log_id="log-1", seq=seq, prev="00" * 32, hash="ab" * 32, topic="service.published", actor="ann",
        at="2026-01-02T03:04:05.000000Z", fact='{"type":"service.published.v1","service_id":"wi\\nki"}',
    )  # fmt: skip
    return Message("audit.service", msgspec.json.encode(logged), headers={"traceparent": TRACEPARENT})


def report(node: str, seq: int, error: str = "") -> Report:
    errors = (ItemError("feed.pool.main", "route/wiki", error),) if error else ()
    return Report(
        node_id=NodeId(node), boot_id=bytes(16), version="1", tags=(),
        cursors=(Cursor("feed.pool.main", LogId("log-1"), seq),), errors=errors,
    )  # fmt: skip


def parsed(piece: bytes) -> list[dict[str, str]]:
    return [dict(line.split(": ", 1) for line in each.splitlines()) for each in piece.decode().strip().split("\n\n")]


async def test_events_and_changes_of_reports_share_one_piece() -> None:
    live = Live()
    one, two = live.open("ann", lambda: None), live.open("ann", lambda: None)
    await live.hear_fact(fact(7))
    for seq in (3, 4):
        live.hear_report(report("gw1", seq))
    live.flush()
    piece = one.pieces.get_nowait()
    assert two.pieces.get_nowait() is piece
    event, node = parsed(piece)
    assert (event["id"], event["event"]) == ("7", "event")
    said = json.loads(event["data"])
    assert (said["seq"], said["trace_id"]) == (7, "0af7651916cd43dd8448eb211c80319c")
    assert said["fact"]["service_id"] == "wi\nki"
    assert node["event"] == "node"
    assert json.loads(node["data"]) == {"node": "gw1", "cursors": {"feed.pool.main": 4}, "errors": []}


async def test_a_report_that_says_nothing_new_is_no_news() -> None:
    live = Live()
    view = live.open("ann", lambda: None)
    for error in ("", "", "address in use"):
        live.hear_report(report("gw1", 3, error))
        live.flush()
    pieces = [view.pieces.get_nowait() for _ in range(3)]
    assert [b"event: node" in piece for piece in pieces] == [True, False, True]
    assert pieces[1].startswith(b":")


async def test_who_does_not_keep_up_is_cut_off_and_the_others_go_on() -> None:
    live, cut = Live(), asyncio.Event()
    slow, quick = live.open("slow", cut.set), live.open("quick", lambda: None)
    for _ in range(QUEUE + 1):
        live.flush()
        quick.pieces.get_nowait()
    assert cut.is_set()
    assert (len(live), live.slow) == (1, 1)
    live.close(slow)
    assert len(live) == 1


async def test_streams_of_one_caller_and_of_all_are_limited() -> None:
    live = Live(most=3, most_per_caller=2)
    views = [live.open("ann", lambda: None), live.open("ann", lambda: None)]
    with pytest.raises(ProblemError, match="ann has as many live views"):
        live.open("ann", lambda: None)
    live.open("bob", lambda: None)
    with pytest.raises(ProblemError, match="as many live views open as are allowed"):
        live.open("eve", lambda: None)
    live.close(views[0])
    live.open("ann", lambda: None)


async def test_at_the_end_every_stream_ends() -> None:
    live, stop = Live(), asyncio.Event()
    view = live.open("ann", lambda: None)
    stop.set()
    await live.run(stop)
    assert view.pieces.get_nowait() == END


@asynccontextmanager
async def watching(world: World, **headers: str) -> AsyncIterator[aiohttp.ClientResponse]:
    stop = asyncio.Event()
    running = asyncio.create_task(world.portal.live.run(stop))
    listening = await world.portal.live.listen(world.bus)
    async with world.client.get("/api/v1/live", headers=world.auth | headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        yield response
    stop.set()
    await running
    await listening.unsubscribe()


async def next_of(response: aiohttp.ClientResponse, name: str) -> Any:
    async with asyncio.timeout(20):
        while (line := await response.content.readline()) != f"event: {name}\n".encode():
            assert line, "the stream ended"
        return json.loads((await response.content.readline()).removeprefix(b"data: "))


async def test_a_stream_tells_what_comes_over_the_bus(world: World) -> None:
    async with watching(world) as response:
        message = fact(9)
        await world.registry_bus.publish(message.subject, message.data, headers=message.headers)
        assert (await next_of(response, "event"))["seq"] == 9
        await world.hear("gw1", 5)
        assert (await next_of(response, "node"))["cursors"] == {"feed.pool.default": 5}


async def test_who_comes_back_is_told_what_it_missed(world: World) -> None:
    for _ in range(3):
        world.registry.written()
    async with watching(world, **{"Last-Event-ID": "1"}) as response:
        assert [(await next_of(response, "event"))["seq"] for _ in range(2)] == [2, 3]


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 20])
async def test_a_last_event_that_is_no_number_is_refused(world: World, last: str) -> None:
    async with world.client.get("/api/v1/live", headers=world.auth | {"Last-Event-ID": last}) as response:
        assert response.status == 400
    assert len(world.portal.live) == 0


async def test_without_a_token_nothing_is_shown(world: World) -> None:
    async with world.client.get("/api/v1/live") as response:
        assert response.status == 401
