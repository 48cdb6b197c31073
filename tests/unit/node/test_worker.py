"""The worker: what came while a pass ran is the next pass, an error is tried again, nothing runs before it may."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from kakuremichi.node.worker import Done, Errors, Plan, Worker
from kakuremichi.reconcile.follower import Applied
from kakuremichi.reconcile.holding import Change, Key

FEED = "feed.pool.main"


@dataclass
class SlowNode:
    """One section that takes its time and fails as often as it is told."""

    passes: list[frozenset[Key]] = field(default_factory=list)
    wholes: int = 0
    failures: int = 0
    failing: Key = ("route", "a")
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def plan(self, keys: frozenset[Key]) -> Plan:
        async def perform() -> Errors:
            await self.gate.wait()
            self.passes.append(keys)
            if self.failures > 0:
                self.failures -= 1
                return {self.failing: "the kernel said no"}
            return {}

        return Plan(keys, {}, [("section", perform)])

    def plan_all(self, keys: frozenset[Key]) -> Plan:
        self.wholes += 1
        return Plan(frozenset(), {}, [])


def applied(seq: int, *names: str, whole: bool = False) -> Applied:
    return Applied(FEED, seq, Change(frozenset(("route", name) for name in names)), 0, "", whole)


@asynccontextmanager
async def running(node: SlowNode, ready: bool = True) -> AsyncIterator[tuple[Worker, "asyncio.Queue[Done]"]]:
    reports: asyncio.Queue[Done] = asyncio.Queue()
    worker, stop = Worker(node, reports.put_nowait, lambda: ready), asyncio.Event()
    task = asyncio.create_task(worker.run(stop))
    try:
        yield worker, reports
    finally:
        stop.set()
        await task


async def test_changes_that_come_during_a_pass_are_one_next_pass() -> None:
    node = SlowNode()
    node.gate.clear()
    async with asyncio.timeout(5), running(node) as (worker, reports):
        worker.take(applied(1, "a"))
        await asyncio.sleep(0.01)
        for seq, name in enumerate("bcd", start=2):
            worker.take(applied(seq, name))
        node.gate.set()

        assert (await reports.get()).cursors == {FEED: 1}
        assert (await reports.get()).cursors == {FEED: 4}
    assert [len(keys) for keys in node.passes] == [1, 3]


async def test_passes_keep_a_distance_in_which_changes_gather() -> None:
    node = SlowNode()
    async with asyncio.timeout(5), running(node) as (worker, reports):
        worker.take(applied(1, "a"))
        await reports.get()
        for seq, name in enumerate("bcd", start=2):
            worker.take(applied(seq, name))
            await asyncio.sleep(0)

        assert (await reports.get()).cursors == {FEED: 4}
    assert [len(keys) for keys in node.passes] == [1, 3]


async def test_a_cursor_is_reported_only_after_its_pass() -> None:
    node = SlowNode()
    node.gate.clear()
    async with asyncio.timeout(5), running(node) as (worker, reports):
        worker.take(applied(7, "a"))
        await asyncio.sleep(0.05)
        assert reports.empty()
        node.gate.set()
        done = await reports.get()
    assert done.cursors == {FEED: 7}
    assert [timing.feed_seq for timing in done.timings] == [7]


async def test_an_error_is_reported_tried_again_and_taken_back() -> None:
    node = SlowNode(failures=1)
    async with asyncio.timeout(5), running(node) as (worker, reports):
        worker.take(applied(1, "a"))
        assert (await reports.get()).errors == {("route", "a"): "the kernel said no"}
        assert (await reports.get()).errors == {}
    assert node.passes == [frozenset({("route", "a")})] * 2


async def test_an_error_of_a_whole_section_is_answered_by_a_whole_comparison() -> None:
    node = SlowNode(failures=1, failing=("route", "*"))
    async with asyncio.timeout(5), running(node) as (worker, reports):
        worker.take(applied(1, "a"))
        await reports.get()
        assert (await reports.get()).errors == {}
    assert node.wholes == 1


async def test_nothing_is_compared_before_a_whole_state_is_held() -> None:
    node = SlowNode()
    async with asyncio.timeout(5), running(node, ready=False) as (worker, reports):
        worker.take(applied(1, "a", whole=True))
        await asyncio.sleep(0.05)
        assert reports.empty()
    assert not node.passes
    assert not node.wholes
