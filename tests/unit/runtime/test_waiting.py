"""Waiting for one of several events leaves no task behind."""

import asyncio

from kakuremichi.runtime.waiting import first_of


async def test_the_first_event_ends_the_wait() -> None:
    one, other = asyncio.Event(), asyncio.Event()
    waiting = asyncio.create_task(first_of(one, other))
    await asyncio.sleep(0)
    assert not waiting.done()
    other.set()
    await waiting
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_wait_has_an_end_without_any_event() -> None:
    await first_of(asyncio.Event(), timeout_s=0.01)


async def test_a_cancelled_wait_cancels_what_it_began() -> None:
    waiting = asyncio.create_task(first_of(asyncio.Event(), asyncio.Event()))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
