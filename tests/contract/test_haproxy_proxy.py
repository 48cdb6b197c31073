"""What the reconciler may rely on, for the HAProxy in memory and the real one alike."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from kakuremichi.dataplane.haproxy.book import Book
from kakuremichi.dataplane.haproxy.client import ProxyUnavailableError
from kakuremichi.dataplane.haproxy.commands import is_busy
from kakuremichi.dataplane.haproxy.config import Settings
from kakuremichi.dataplane.haproxy.desired import HttpService, Server
from kakuremichi.dataplane.haproxy.diff import (
    Actual,
    ActualServer,
    AddMap,
    AddServer,
    DelMap,
    EnableServer,
    MoveServer,
    RemoveServer,
    Route,
    SetMap,
    Step,
    WeighServer,
)
from kakuremichi.dataplane.haproxy.files import Files, Layout
from kakuremichi.dataplane.haproxy.memory import MemoryProxy
from kakuremichi.dataplane.haproxy.pool import Pools
from kakuremichi.dataplane.haproxy.proxy import Haproxy, Outcome, Proxy
from kakuremichi.model.addresses import parse_address
from kakuremichi.model.ids import ServiceId
from support import haproxy

A = ServiceId("a")
T1, T2 = Server("t1", parse_address("127.0.0.1"), 9), Server("t2", parse_address("fd00::1"), 80, 7, backup=True)
ROUTE = Route(0, A)


@dataclass
class Subject:
    proxy: Proxy
    layout: Layout
    connect: Callable[[], Awaitable[Server]]  # a server p0/<its name> with an open connection
    stop: Callable[[], Awaitable[None]]

    def files(self, *services: HttpService) -> Files:
        book = Book(Settings(self.layout), Pools.of(4, 0))
        for service in services:
            book.put(service)
        return book.files()


@pytest.fixture(params=["memory", "real"])
async def subject(
    request: pytest.FixtureRequest, run_dir: Path, free_port: Callable[[], int]
) -> AsyncIterator[Subject]:
    layout = Layout(run_dir)
    if request.param == "memory":
        yield await in_memory(layout)
        return
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(haproxy.gateway(run_dir, f"80=127.0.0.1:{free_port()}", pool_size=4))
        (target,) = await stack.enter_async_context(haproxy.targets(free_port, "busy"))

        async def connect() -> Server:
            await Haproxy(layout).apply([AddServer(0, target.server()), AddMap("busy.test", ROUTE)])
            task = asyncio.create_task(haproxy.ask(rig.port, haproxy.get("busy.test", "/hang")))
            stack.push_async_callback(lambda: asyncio.wait([task]))
            stack.callback(target.released.set)
            await target.asked.wait()
            return target.server()

        async def stop() -> None:
            await asyncio.to_thread(rig.end_holder)

        yield Subject(Haproxy(layout), layout, connect, stop)


async def in_memory(layout: Layout) -> Subject:
    proxy = MemoryProxy()

    async def connect() -> Server:
        await proxy.apply([AddServer(0, T1)])
        proxy.connected.add((0, T1.name))
        return T1

    async def stop() -> None:
        proxy.stop()

    subject = Subject(proxy, layout, connect, stop)
    await proxy.save(subject.files())
    proxy.start()
    return subject


async def test_servers_and_routes_are_read_back_as_they_were_set(subject: Subject) -> None:
    steps: list[Step] = [AddServer(0, T1), AddServer(0, T2), AddMap("a.test", ROUTE)]

    outcomes = await subject.proxy.apply(steps)

    assert [outcome.error for outcome in outcomes] == [None] * 3
    held = {
        "t1": ActualServer("127.0.0.1", 9, 100, ready=True),
        "t2.backup": ActualServer("fd00::1", 80, 7, ready=True),
    }
    everything = await subject.proxy.read()
    assert everything.servers == {0: held}
    assert everything.routes == {"a.test": {ROUTE}}
    part = await subject.proxy.read_part((0, 3), ("a.test", "b.test"))
    assert part.servers == {0: held, 3: {}}
    assert part.routes == {"a.test": {ROUTE}}


async def test_each_kind_of_route_key_stands_for_itself(subject: Subject) -> None:
    """A prefix that is asked for is not answered with a shorter one that visitors would be led by."""
    keys = ["a.test", "*.a.test", "a.test/", "a.test/api", "a.test/api/", "a.test/$&(1)!~+,=:@*/"]
    for key in keys:
        assert (await subject.proxy.read_part((), (key,))).routes == {}
        (added,) = await subject.proxy.apply([AddMap(key, ROUTE)])
        assert added.error is None
    everything = {key: frozenset({ROUTE}) for key in keys}

    assert (await subject.proxy.read()).routes == everything
    assert (await subject.proxy.read_part((), (*keys, "a.test/api/v1/", "b.test"))).routes == everything
    await subject.proxy.apply([DelMap(key) for key in keys])
    assert (await subject.proxy.read()).routes == {}


async def test_a_change_is_worked_out_from_what_is_there_and_applied(subject: Subject) -> None:
    await subject.proxy.apply([AddServer(0, T1), AddMap("a.test", ROUTE)])
    seen: list[Actual] = []

    def decide(actual: Actual) -> list[Step]:
        seen.append(actual)
        return [DelMap("a.test"), RemoveServer(0, "t1"), AddServer(1, T2)]

    outcomes = await subject.proxy.change((0, 1), ("a.test",), decide)

    assert [outcome.error for outcome in outcomes] == [None, None, None]
    assert seen == [
        Actual({"a.test": frozenset({ROUTE})}, {0: {"t1": ActualServer("127.0.0.1", 9, 100, ready=True)}, 1: {}})
    ]
    after = await subject.proxy.read_part((0, 1), ("a.test",))
    assert (after.routes, set(after.servers[0]), set(after.servers[1])) == ({}, set(), {"t2.backup"})


async def test_a_change_without_steps_applies_nothing(subject: Subject) -> None:
    assert await subject.proxy.change((0,), ("a.test",), lambda _: ()) == ()


async def test_servers_are_changed_in_place(subject: Subject) -> None:
    await subject.proxy.apply([AddServer(0, T1)])
    changed = Server("t1", parse_address("127.0.0.2"), 10, 0)

    outcomes = await subject.proxy.apply([MoveServer(0, changed), WeighServer(0, changed), EnableServer(0, "t1")])

    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert (await subject.proxy.read()).servers == {0: {"t1": ActualServer("127.0.0.2", 10, 0, ready=True)}}


async def test_a_key_may_be_added_twice_and_is_then_set_and_deleted_as_one(subject: Subject) -> None:
    other = Route(1, ServiceId("b"))
    await subject.proxy.apply([AddMap("a.test", ROUTE), AddMap("a.test", other)])
    assert (await subject.proxy.read()).routes == {"a.test": {ROUTE, other}}

    await subject.proxy.apply([SetMap("a.test", other)])
    assert (await subject.proxy.read()).routes == {"a.test": {other}}

    await subject.proxy.apply([DelMap("a.test")])
    assert (await subject.proxy.read()).routes == {}


async def test_what_is_already_gone_may_be_removed_again(subject: Subject) -> None:
    outcomes = await subject.proxy.apply([RemoveServer(0, "nobody"), DelMap("nobody.test")])

    assert [outcome.error for outcome in outcomes] == [None, None]


async def test_a_step_that_cannot_be_done_is_told_and_the_others_are_done(subject: Subject) -> None:
    steps: list[Step] = [
        AddServer(99, T1),
        AddServer(0, T1),
        AddServer(0, T1),
        SetMap("no.test", ROUTE),
        WeighServer(1, T1),
    ]

    errors = [outcome.error for outcome in await subject.proxy.apply(steps)]

    assert errors == [
        "No such backend.",
        None,
        "Already exists a server with the same name in backend.",
        "entry not found.",
        "No such server.",
    ]


async def test_a_server_with_connections_goes_into_maintenance_and_is_deleted_when_they_are_cut(
    subject: Subject,
) -> None:
    busy = await subject.connect()

    (refused,) = await subject.proxy.apply([RemoveServer(0, busy.name)])

    assert refused.error is not None
    assert is_busy(refused.error), refused.error
    assert not (await subject.proxy.read()).servers[0][busy.name].ready

    cut = RemoveServer(0, busy.name, cut=True)
    assert await haproxy.until(lambda: all_done(subject.proxy.apply([cut])))
    assert (await subject.proxy.read()).servers == {}


async def all_done(applying: Awaitable[tuple[Outcome, ...]]) -> bool:
    return all(outcome.error is None for outcome in await applying)


async def test_a_reload_knows_what_the_files_say_and_forgets_the_rest(subject: Subject) -> None:
    before = await subject.proxy.running()
    await subject.proxy.apply([AddServer(2, T1), AddMap("forgotten.test", Route(2, ServiceId("f")))])
    files = subject.files(HttpService(A, "a.test", (T1, T2)))

    await subject.proxy.reload(files)

    now = await subject.proxy.read()
    assert now.routes == {"a.test": {ROUTE}}
    assert set(now.servers) == {0}
    assert set(now.servers[0]) == {"t1", "t2.backup"}
    assert await subject.proxy.saved() == files
    running = await subject.proxy.running()
    assert running.pid != before.pid
    assert f"description {running.description}\n" in files.config


async def test_files_can_be_saved_while_nobody_answers(subject: Subject) -> None:
    await subject.stop()
    files = subject.files(HttpService(A, "a.test"))

    await subject.proxy.save(files)

    assert await subject.proxy.saved() == files
    for attempt in (subject.proxy.read(), subject.proxy.running(), subject.proxy.reload(files)):
        with pytest.raises(ProxyUnavailableError, match="nobody answers"):
            await attempt
    with pytest.raises(ProxyUnavailableError):
        await subject.proxy.apply([AddServer(0, T1)])
