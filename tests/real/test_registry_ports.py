"""Agent ports as the database finds them: the first that is free, around the end, past ranges."""

from kakuremichi.wire.commands import Written
from support.real_registry import World, tcp

FREE = "select kk_free_port($1, 'tcp', $2, 20000, 59999, $3)"


async def test_the_first_free_port_past_what_others_hold(registry_world: World) -> None:
    world = registry_world
    await world.enrol("site-a")
    for command in (tcp("low", 20000, 20009), tcp("middle", 30000, 39999), tcp("high", 59990, 59999)):
        assert isinstance(await world.ask(command), Written)
    cases = [
        ("site-a", "x", 20000, 20010),
        ("site-a", "x", 29999, 29999),
        ("site-a", "x", 30000, 40000),
        ("site-a", "x", 35000, 40000),
        ("site-a", "x", 59990, 20010),
        ("site-a", "x", 59999, 20010),
        ("site-a", "middle", 35000, 35000),
        ("nobody", "x", 20000, None),
    ]
    for agent, own, choice, expected in cases:
        row = await world.database.fetch_one(FREE, agent, own, choice)
        assert row is not None
        assert row[0] == expected, (agent, own, choice)


async def test_an_agent_without_a_free_port_says_so(registry_world: World) -> None:
    world = registry_world
    await world.enrol("site-a")
    for command in (tcp("low", 20000, 40000), tcp("high", 40001, 51819), tcp("last", 51821, 59999)):
        assert isinstance(await world.ask(command), Written)
    row = await world.database.fetch_one(FREE, "site-a", "x", 30000)
    assert row is not None
    assert row[0] == 51820
    assert isinstance(await world.ask(tcp("one", 10000)), Written)
    answer = await world.ask(tcp("two", 10001))
    assert getattr(answer, "status", 0) == 507
