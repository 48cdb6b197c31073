import asyncio

from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.runtime.backoff import Backoff, around
from kakuremichi.runtime.clock import ManualClock, SystemClock
from kakuremichi.runtime.health import Health


async def test_sleepers_wake_in_order_at_their_own_time() -> None:
    clock = ManualClock()
    woken: list[tuple[str, float]] = []

    async def every(name: str, seconds: float) -> None:
        while True:
            await clock.sleep(seconds)
            woken.append((name, clock.monotonic()))

    tasks = [asyncio.create_task(every("three", 3)), asyncio.create_task(every("two", 2))]
    await clock.advance(6.5)
    for task in tasks:
        task.cancel()

    assert woken == [("two", 2), ("three", 3), ("two", 4), ("three", 6), ("two", 6)]
    assert clock.monotonic() == 6.5


async def test_the_wall_clock_may_jump_and_the_other_does_not() -> None:
    clock = ManualClock(wall_ms=1_000)
    await clock.advance(1)
    assert clock.wall_ms() == 2_000
    clock.set_wall_ms(500)
    await clock.advance(1)
    assert (clock.wall_ms(), clock.monotonic()) == (1_500, 2)


def test_the_system_clock_has_the_units_it_promises() -> None:
    clock = SystemClock()
    assert clock.wall_ms() > 1_700_000_000_000
    assert clock.monotonic() <= clock.monotonic()


@given(st.integers(0, 10_000))
def test_backoff_stays_between_zero_and_its_cap(attempt: int) -> None:
    assert 0 <= Backoff(0.5, 30).delay_s(attempt) <= min(30, 0.5 * 2 ** min(attempt, 20))
    assert 8 <= around(10) <= 12


async def test_a_loop_that_no_longer_beats_is_named() -> None:
    clock = ManualClock()
    health = Health(clock)
    health.expect("feed", within_s=10)
    await clock.advance(9)
    assert health.live().ok
    health.beat("feed")
    await clock.advance(11)
    assert health.live().faults == ("loop feed: no sign of life for 11 s",)


def test_readiness_lists_what_lacks() -> None:
    health = Health(ManualClock())
    health.lack("database", "connection refused")
    health.lack("bus", "not connected")
    assert health.ready().faults == ("bus: not connected", "database: connection refused")
    health.have("bus")
    health.have("database")
    assert health.ready().ok
