"""`wait=applied`: who has applied a write, who has not, and since when."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kakuremichi.wire import commands
from kakuremichi.wire.requests import ItemError
from kakuremichi_portal.progress import Concern, _Cursor
from unit.portal.fake_registry import GATEWAYS, node_view
from unit.portal.world import WIKI, World

Decide = Callable[[object], Awaitable[commands.Result]]


async def publish(world: World, timeout_s: float = 5) -> tuple[int, dict[str, Any]]:
    params = {"wait": "applied", "timeout": str(timeout_s)}
    async with world.client.put("/api/v1/services/wiki", json=WIKI, headers=world.auth, params=params) as response:
        return response.status, await response.json()


async def all_heard(world: World, feed_seq: int = 0) -> None:
    for gateway in GATEWAYS:
        await world.hear(gateway, feed_seq)


async def test_the_answer_comes_with_the_last_report(world: World) -> None:
    await all_heard(world)
    writing = asyncio.create_task(publish(world))
    for gateway in GATEWAYS:
        await asyncio.wait_for(world.registry.told.wait(), 5)
        assert not writing.done()
        await world.hear(gateway, 1)
    status, answer = await writing

    assert status == 200
    assert [one["node"] for one in answer["applied"]] == list(GATEWAYS)
    assert all(0 < one["ms"] < 5000 for one in answer["applied"])
    assert (answer["pending"], answer["offline"], answer["errors"]) == ([], [], [])
    assert answer["gateways"] == list(GATEWAYS)


async def test_a_report_may_come_before_the_answer_to_the_command(world: World) -> None:
    await all_heard(world)
    decide: Decide = world.registry.decide

    async def slow(command: object) -> commands.Result:
        result = await decide(command)
        if isinstance(command, commands.PublishService):
            for gateway in GATEWAYS:
                await world.node(gateway).report(1)
            await asyncio.sleep(0.1)
        return result

    world.registry.decide = slow

    status, answer = await publish(world)

    assert status == 200
    assert all(one["ms"] < 90 for one in answer["applied"]), answer


async def test_at_the_timeout_it_is_202_and_the_write_stands(world: World) -> None:
    await all_heard(world)
    started = time.monotonic()
    writing = asyncio.create_task(publish(world, 0.3))
    await asyncio.sleep(0.05)
    await world.hear("gw1", 1)
    status, answer = await writing

    assert status == 202
    assert 0.25 < time.monotonic() - started < 2
    assert [one["node"] for one in answer["applied"]] == ["gw1"]
    assert answer["pending"] == ["gw2", "gw3"]
    assert "wiki" in world.registry.services


async def test_a_node_not_heard_for_90_s_is_offline_and_not_waited_for(world: World) -> None:
    world.registry.nodes = [node_view("gw3", state="offline")]
    await world.hear("gw1", 1)
    await world.hear("gw2", 1)
    status, answer = await publish(world)
    assert (status, answer["pending"], answer["offline"]) == (200, [], ["gw3"])


async def test_a_portal_that_has_just_started_asks_the_registry_who_is_live(world: World) -> None:
    await world.hear("gw1", 1)
    status, answer = await publish(world, 0.2)
    assert (status, answer["pending"], answer["offline"]) == (202, ["gw2", "gw3"], [])


async def test_a_node_that_reports_an_error_about_the_service_has_not_applied_it(world: World) -> None:
    await all_heard(world, 1)
    await world.node("gw2").report(1, error=("route/wiki", "haproxy: backend pool is used up"))
    await world.node("gw3").report(1, error=("route/other", "not ours"))
    await world.nats.idle()
    status, answer = await publish(world, 0.2)
    assert (status, answer["pending"]) == (202, ["gw2"])
    assert answer["errors"] == [{"node": "gw2", "message": "haproxy: backend pool is used up"}]


async def test_a_cursor_of_another_log_says_nothing(world: World) -> None:
    for gateway in GATEWAYS:
        await world.node(gateway).report(99, log_id="log-0")
    await world.nats.idle()
    status, answer = await publish(world, 0.2)
    assert (status, answer["applied"]) == (202, [])


async def test_reports_that_are_garbled_or_name_another_node_are_not_believed(world: World) -> None:
    await world.hear("gw1", 1)
    honest = world.nats.sent_to("report.gw1")[-1]
    await world.bus.publish("report.gw1", b"\xc1 no report")
    await world.bus.publish("report.gw2", honest.data)
    await world.nats.idle()
    assert world.portal.reports.refused == 2
    assert world.portal.reports.progress.live(time.monotonic()) == ("gw1",)


@pytest.mark.parametrize("moves", [[(1, 1.0), (3, 2.0)], [(1, 1.0), (2, 1.5), (3, 2.0)], [(3, 2.0), (3, 9.0)]])
def test_a_feed_position_is_reached_with_the_first_report_at_or_past_it(moves: list[tuple[int, float]]) -> None:
    cursor = _Cursor("log-1")
    for seq, at in moves:
        cursor.move("log-1", seq, at)
    assert cursor.reached("log-1", 3) == 2.0
    assert cursor.reached("log-1", 4) is None


@pytest.mark.parametrize(
    ("key", "touched"),
    [("route/wiki", True), ("target/wiki-1", True), ("route/wiki-2", False), ("target/wiki-2-1", False),
     ("agent-peer/wiki", False), ("", False)],
)  # fmt: skip
def test_an_error_concerns_a_write_if_it_is_about_its_records(key: str, *, touched: bool) -> None:
    concern = Concern("log-1", (), frozenset({"wiki"}))
    assert concern.touches(ItemError("feed.pool.default", key, "no")) is touched
