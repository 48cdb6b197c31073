"""Paths, wildcards and options of services: what the database keeps, who may hold what, and what gateways are told."""

import asyncio

import msgspec

from kakuremichi.model.ids import ServiceId
from kakuremichi.model.options import Headers, Http, Limits, Options
from kakuremichi.wire.commands import ListServices, Problem, Services, UnpublishService, Written
from kakuremichi.wire.records import FeedItem, Route, RouteWithOptions, decode_record
from support.real_registry import World, http

MANY = Options(
    limits=Limits(rate=100, body=1 << 40),
    http=Http(
        strip_prefix=True, request=Headers(set={"X-Z": '"%\\', "X-A": "1"}, remove=("Cookie",)), pages={503: "<p>é</p>"}
    ),
)


async def latest_route(world: World) -> Route:
    row = await world.database.fetch_one(
        "select body from feed_item where feed = 'feed.pool.main' order by feed_seq desc limit 1"
    )
    assert row is not None
    record = decode_record(bytes(msgspec.msgpack.decode(row["body"], type=FeedItem).record))
    assert isinstance(record, Route)
    return record


async def test_options_are_kept_shown_and_told_as_they_were_given(registry_world: World) -> None:
    world = registry_world
    await world.enrol("site-a")
    command = msgspec.structs.replace(http("wiki"), path="/docs", options=MANY, sources=("2001:db8::/32",))
    first = await world.ask(command)
    assert isinstance(first, Written)
    route = await latest_route(world)
    assert isinstance(route, RouteWithOptions)
    assert msgspec.msgpack.decode(route.options, type=Options) == MANY
    services = await world.ask(ListServices(actor="admin"))
    assert isinstance(services, Services)
    assert [(view.path, view.options, view.sources) for view in services.items] == [("/docs", MANY, ("2001:db8::/32",))]
    again = await world.ask(command)
    assert isinstance(again, Written)
    assert not again.changed

    plain = await world.ask(http("wiki"))
    assert isinstance(plain, Written)
    assert type(await latest_route(world)) is Route


async def test_services_share_a_host_by_their_paths(registry_world: World) -> None:
    world = registry_world
    await world.enrol("site-a")
    root = http("root", "app.example.com")
    docs = msgspec.structs.replace(http("docs", "app.example.com"), path="/docs")
    exact = msgspec.structs.replace(docs, service_id=ServiceId("exact"), options=Options(http=Http(exact=True)))
    for command in (root, docs, exact):
        assert isinstance(await world.ask(command), Written)
    for taken in (root, docs, exact):
        problem = await world.ask(msgspec.structs.replace(taken, service_id=ServiceId("other")))
        assert isinstance(problem, Problem)
        assert (problem.code, problem.holders) == ("host-taken", (taken.service_id,))

    unpublish = UnpublishService(actor="admin", service_id=ServiceId("root"))
    assert isinstance(await world.ask(unpublish), Written)
    moved = msgspec.structs.replace(http("other", "app.example.com"), path="/other")
    assert isinstance(await world.ask(moved), Written), "a name that is in use does not rest"
    assert isinstance(await world.ask(docs), Written)
    for name in ("docs", "exact", "other"):
        assert isinstance(await world.ask(UnpublishService(actor="admin", service_id=ServiceId(name))), Written)
    problem = await world.ask(root)
    assert isinstance(problem, Problem)
    assert problem.code == "host-resting"


async def test_a_host_rests_also_when_its_last_services_go_at_the_same_moment(registry_world: World) -> None:
    world = registry_world
    await world.enrol("site-a")
    for number in range(5):
        host = f"app{number}.example.com"
        for name, path in (("a", ""), ("b", "/b")):
            command = msgspec.structs.replace(http(f"{name}{number}", host), path=path)
            assert isinstance(await world.ask(command), Written)
        going = [UnpublishService(actor="admin", service_id=ServiceId(f"{name}{number}")) for name in "ab"]
        answers = await asyncio.gather(*map(world.ask, going))
        assert all(isinstance(answer, Written) for answer in answers)
        problem = await world.ask(http("other", host))
        assert isinstance(problem, Problem)
        assert problem.code == "host-resting"
