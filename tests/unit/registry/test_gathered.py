"""Who asks while a look is under way is answered by the next one, together with the others."""

import asyncio

import pytest

from kakuremichi_registry.gathered import MOST, Gathered


class Shelf:
    """What is looked up, and by which looks. While `open` is not set, looks do not end."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.looks: list[list[str]] = []
        self.looking = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def look(self, names: list[str]) -> dict[str, int]:
        self.looks.append(names)
        self.looking.set()
        found = {name: self.values[name] for name in names if name in self.values}
        await self.open.wait()
        if "bad" in names:
            raise ValueError("the shelf fell down")
        return found


async def test_a_lone_asker_is_answered_at_once() -> None:
    shelf = Shelf()
    shelf.values["a"] = 1
    gathered = Gathered(shelf.look)

    assert await gathered.get("a") == 1
    assert await gathered.get("b") is None
    assert shelf.looks == [["a"], ["b"]]


async def test_who_asks_during_a_look_shares_the_next_one() -> None:
    shelf = Shelf()
    shelf.values = {"a": 1, "b": 2}
    gathered = Gathered(shelf.look)
    shelf.open.clear()
    first = asyncio.create_task(gathered.get("a"))
    await shelf.looking.wait()

    others = [asyncio.create_task(gathered.get(name)) for name in ("b", "a", "b", "c")]
    await asyncio.sleep(0)
    shelf.open.set()

    assert await asyncio.gather(first, *others) == [1, 2, 1, 2, None]
    assert shelf.looks == [["a"], ["b", "a", "c"]]


async def test_who_reads_after_a_write_sees_it_although_a_look_is_under_way() -> None:
    shelf = Shelf()
    shelf.values["a"] = 1
    gathered = Gathered(shelf.look)
    shelf.open.clear()
    before = asyncio.create_task(gathered.get("a"))
    await shelf.looking.wait()

    shelf.values["a"] = 2
    after = asyncio.create_task(gathered.get("a"))
    await asyncio.sleep(0)
    shelf.open.set()

    assert list(await asyncio.gather(before, after)) == [1, 2]


async def test_a_look_that_fails_is_told_to_its_own_askers_only() -> None:
    shelf = Shelf()
    shelf.values["a"] = 1
    gathered = Gathered(shelf.look)

    together = [asyncio.create_task(gathered.get(name)) for name in ("bad", "a")]
    answers = await asyncio.gather(*together, return_exceptions=True)

    assert [type(answer) for answer in answers] == [ValueError, ValueError]
    assert await gathered.get("a") == 1


async def test_an_asker_that_goes_away_disturbs_nobody() -> None:
    shelf = Shelf()
    shelf.values = {"a": 1, "b": 2}
    gathered = Gathered(shelf.look)
    shelf.open.clear()
    gone, stays = asyncio.create_task(gathered.get("a")), asyncio.create_task(gathered.get("b"))
    await shelf.looking.wait()

    gone.cancel()
    shelf.open.set()

    assert await stays == 2
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_crowd_is_served_in_several_looks() -> None:
    shelf = Shelf()
    shelf.values = {str(number): number for number in range(3 * MOST)}
    gathered = Gathered(shelf.look)

    found = await asyncio.gather(*(gathered.get(name) for name in shelf.values))

    assert found == list(range(3 * MOST))
    assert [len(names) for names in shelf.looks] == [MOST, MOST, MOST]
