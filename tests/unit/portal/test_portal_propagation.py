"""How a change came to each node: durations of the nodes, laid on the portal's own clock beside the log's time."""

import time
from typing import Any

import pytest

from kakuremichi.model.ids import LogId, NodeId
from kakuremichi.wire import commands, subjects
from kakuremichi.wire.codec import encode
from kakuremichi.wire.requests import Cursor, Report, TimedReport, Timing
from kakuremichi_portal.propagation import Arrivals, percentile, stages
from unit.portal.fake_registry import LOG_ID, node_view
from unit.portal.world import World

FEED = "feed.pool.default"
WRITTEN = "2026-01-02T03:04:05+00:00"
WRITTEN_AT = 1767323045.0


def report(node: str, seq: int, *, age_us: int | None = 9000, decided_us: int = 1000, applied_us: int = 5000) -> Report:
    said: dict[str, Any] = {
        "node_id": NodeId(node), "boot_id": bytes(16), "version": "0.2.0", "tags": (),
        "cursors": (Cursor(FEED, LogId(LOG_ID), seq),), "timings": (Timing(FEED, seq, decided_us, applied_us),),
    }  # fmt: skip
    return Report(**said) if age_us is None else TimedReport(**said, ages_us=(age_us,))


def test_stages_follow_each_other_without_a_gap_on_the_portals_clock() -> None:
    arrivals = Arrivals()
    arrivals.hear(report("gw1", 7), WRITTEN_AT + 0.020)
    arrival = arrivals.of((LOG_ID, FEED, 7), "gw1")
    assert arrival is not None
    drawn = stages(arrival, WRITTEN_AT)
    assert [(stage.name, round(stage.start_ms), round(stage.end_ms)) for stage in drawn] == [
        ("deliver", 0, 11), ("decide", 11, 12), ("apply", 12, 16), ("report", 16, 20),
    ]  # fmt: skip


def test_a_report_of_an_older_release_says_only_when_it_came() -> None:
    arrivals = Arrivals()
    arrivals.hear(report("gw1", 7, age_us=None), WRITTEN_AT + 0.020)
    arrival = arrivals.of((LOG_ID, FEED, 7), "gw1")
    assert arrival is not None
    assert [(stage.name, round(stage.end_ms)) for stage in stages(arrival, WRITTEN_AT)] == [("report", 20)]


def test_the_first_report_of_an_item_counts_and_the_oldest_items_are_forgotten() -> None:
    arrivals = Arrivals(most=3)
    arrivals.hear(report("gw1", 1), WRITTEN_AT)
    arrivals.hear(report("gw1", 1), WRITTEN_AT + 60)
    first = arrivals.of((LOG_ID, FEED, 1), "gw1")
    assert first is not None
    assert first.heard_at == WRITTEN_AT
    for seq in (2, 3, 4):
        arrivals.hear(report("gw1", seq), WRITTEN_AT)
    assert [arrivals.of((LOG_ID, FEED, seq), "gw1") is not None for seq in (1, 2, 3, 4)] == [False, True, True, True]
    assert len(arrivals) == 3


def test_a_percentile_is_one_of_the_samples() -> None:
    assert percentile([], 50) is None
    assert [percentile([3.0, 1.0, 2.0], percent) for percent in (1, 50, 99)] == [1.0, 2.0, 3.0]


async def ask(world: World, path: str, status: int = 200) -> Any:
    async with world.client.get(f"/api/v1{path}", headers=world.auth) as response:
        assert response.status == status, await response.text()
        return await response.json()


async def say(world: World, made: Report) -> None:
    await world.bus.publish(subjects.report(made.node_id), encode(made))
    await world.nats.idle()


@pytest.fixture
def event(world: World) -> commands.EventPositions:
    """Event 7, which took the pool's feed to 7; gw2 has an error, gw3 is offline."""
    made = commands.EventPositions(
        seq=7, at=WRITTEN, topic="service.published", trace_id="0a" * 16, positions=((FEED, 7),)
    )
    inner = world.registry.decide

    async def decide(command: object) -> commands.Result:
        if isinstance(command, commands.ListPositions):
            found = (made,) if command.seq in (0, 7) else ()
            return commands.Positions(log_id=LOG_ID, items=found)
        return await inner(command)

    world.registry.decide = decide
    world.registry.nodes = [
        node_view("gw1"),
        node_view("gw2", errors=(("route/wiki", "address in use"),), behind=1),
        node_view("gw3", state="offline", behind=3, last_report_at="2026-01-01T00:00:00+00:00"),
        node_view("gw4", pool="other"),
        node_view("gw5", state="revoked"),
        node_view("site-a", "agent"),
    ]
    return made


async def test_the_waterfall_says_of_each_reader_whether_it_has_applied_and_why_not(
    world: World, event: commands.EventPositions
) -> None:
    await say(world, report("gw1", 7))
    answer = await ask(world, "/events/7/propagation")
    by_name = {row["node"]: row for row in answer["nodes"]}
    assert by_name.keys() == {"gw1", "gw2", "gw3"}  # not those of another pool, revoked ones or agents
    assert [(name, row["state"]) for name, row in by_name.items()] == [
        ("gw1", "applied"), ("gw2", "pending"), ("gw3", "offline"),
    ]  # fmt: skip
    assert [stage["name"] for stage in by_name["gw1"]["stages"]] == ["deliver", "decide", "apply", "report"]
    assert by_name["gw2"]["reason"] == "route/wiki: address in use"
    assert by_name["gw3"]["reason"] == "offline: its last report came at 2026-01-01T00:00:00+00:00"
    assert (answer["applied"], answer["pending"], answer["offline"]) == (1, 1, 1)
    assert answer["trace_id"] == "0a" * 16


async def test_a_cursor_beyond_the_change_is_enough_without_times(world: World, event: commands.EventPositions) -> None:
    await world.hear("gw1", 9)
    row = (await ask(world, "/events/7/propagation"))["nodes"][0]
    assert (row["node"], row["state"], row["cursor"]) == ("gw1", "applied", 9)
    assert (row["stages"], row["applied_ms"]) == ([], None)


async def test_the_fleets_figures_are_of_the_newest_events_and_name_who_is_behind(
    world: World, event: commands.EventPositions
) -> None:
    await say(world, report("gw1", 7))
    answer = await ask(world, "/propagation")
    assert (answer["events"], answer["samples"]) == (1, 1)
    decide = next(stage for stage in answer["stages"] if stage["name"] == "decide")
    assert (decide["p50_ms"], decide["p99_ms"]) == pytest.approx((1.0, 1.0), abs=0.05)
    assert [(row["node"], row["behind"]) for row in answer["behind"]] == [("gw2", 1), ("gw3", 3)]
    assert answer["p99_ms"] <= (time.time() - WRITTEN_AT) * 1000


@pytest.mark.parametrize("seq", ["0", "8", "x", "7x", "-1", "9" * 30])
async def test_what_is_no_event_is_not_found(world: World, event: commands.EventPositions, seq: str) -> None:
    await ask(world, f"/events/{seq}/propagation", 404)


@pytest.mark.parametrize("limit", ["0", "201", "many"])
async def test_a_limit_is_within_bounds(world: World, event: commands.EventPositions, limit: str) -> None:
    assert (await ask(world, f"/propagation?limit={limit}", 400))["field"] == "limit"
