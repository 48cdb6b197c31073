"""The reconciler against the HAProxy in memory."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.dataplane.haproxy import reconcile, reloading
from kakuremichi.dataplane.haproxy.desired import HttpService, RouteState, ServiceState
from kakuremichi.dataplane.haproxy.diff import ActualServer, AddServer, RemoveServer, Route, SetMap
from kakuremichi.dataplane.haproxy.memory import MemoryProxy
from kakuremichi.dataplane.haproxy.proxy import Outcome
from kakuremichi.dataplane.haproxy.reconcile import Reconciler
from kakuremichi.dataplane.haproxy.rendering import parse_maps
from kakuremichi.model.ids import ServiceId
from support.haproxy_memory import CLOSED, reconciler_for, running_with, served, server, service


@pytest.fixture(scope="module", autouse=True)
def no_gap_between_reloads() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reloading, "GAP_S", 0.0)
        yield


async def test_files_are_there_before_haproxy_and_it_starts_with_everything() -> None:
    proxy, _ = await running_with(service("a", server("t")), service("b"))

    assert await served(proxy) == {"a.test": ("a", frozenset({"t"})), "b.test": ("b", frozenset())}


async def test_changes_at_the_same_time_share_a_conversation_and_each_hears_its_own_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy, reconciler = await running_with(service("a", server("t")), service("b", server("t")))
    proxy.failing = {AddServer(1, server("u", 2)): "no file descriptor left"}
    conversations = 0
    change = proxy.change

    async def counted(*args: Any) -> tuple[Outcome, ...]:
        nonlocal conversations
        conversations += 1
        return await change(*args)

    monkeypatch.setattr(proxy, "change", counted)
    reports = await asyncio.gather(
        reconciler.put(service("b", server("u", 2))), reconciler.put(service("c")), reconciler.remove(ServiceId("a"))
    )

    assert [report.errors for report in reports] == [("b: AddServer: no file descriptor left",), (), ()]
    assert set(await served(proxy)) == {"b.test", "c.test"}
    assert conversations == 1


async def test_a_change_touches_only_its_service() -> None:
    proxy, reconciler = await running_with(service("a", server("t")), service("b", server("t")))

    report = await reconciler.put(service("b", server("u", 2)))

    assert [outcome.step for outcome in report.outcomes] == [AddServer(1, server("u", 2)), RemoveServer(1, "t")]
    assert (await served(proxy))["b.test"] == ("b", frozenset({"u"}))


async def test_a_service_that_changes_its_host_leaves_none_behind() -> None:
    proxy, reconciler = await running_with(service("a", server("t")))

    await reconciler.put(service("a", server("t"), host="new.test"))

    assert await served(proxy) == {"new.test": ("a", frozenset({"t"}))}


async def test_a_host_that_another_service_takes_is_not_taken_away_with_the_first_one() -> None:
    proxy, reconciler = await running_with(service("a", server("t"), host="x.test"))

    await reconciler.put(service("b", server("u"), host="x.test"))
    await reconciler.remove(ServiceId("a"))

    assert await served(proxy) == {"x.test": ("b", frozenset({"u"}))}
    assert (await reconciler.compare()).outcomes == ()


async def test_a_paused_service_keeps_its_name_and_servers() -> None:
    proxy, reconciler = await running_with(service("a", server("t")))

    await reconciler.put(service("a", server("t"), state=ServiceState.PAUSED))

    assert (await proxy.read()).routes["a.test"] == {Route(0, ServiceId("a"), RouteState.PAUSED)}


async def test_a_service_whose_last_target_goes_says_so_before_it_goes() -> None:
    proxy, reconciler = await running_with(service("a", server("t")))

    report = await reconciler.put(service("a"))

    gone = Route(0, ServiceId("a"), RouteState.NO_TARGET)
    assert [outcome.step for outcome in report.outcomes] == [SetMap("a.test", gone), RemoveServer(0, "t")]
    await reconciler.put(service("a", server("t", weight=0)))  # draining takes no visitors either
    assert (await proxy.read()).routes["a.test"] == {gone}


async def test_removal_waits_for_connections_and_the_number_is_free_only_after_files_without_it_are_saved() -> None:
    proxy, reconciler = await running_with(service("a", server("t")), pool_size=1)
    proxy.connected.add((0, "t"))

    report = await reconciler.remove(ServiceId("a"))

    assert report.errors == ()
    assert report.pending == (RemoveServer(0, "t"),)
    assert await served(proxy) == {}

    proxy.connected.clear()
    await reconciler._retry_removals(now=1e9)
    assert reconciler.pending == ()
    assert reconciler.owners == {0: "a"}  # a HAProxy started now would still lead a.test to backend 0

    await reconciler.flush()
    assert reconciler.owners == {}
    assert proxy.files is not None
    assert parse_maps(proxy.files.maps) == {}


async def test_a_server_that_comes_back_before_it_was_deleted_is_enabled_again() -> None:
    proxy, reconciler = await running_with(service("a", server("t"), server("u", 2)))
    proxy.connected.add((0, "u"))
    await reconciler.put(service("a", server("t")))
    assert (await served(proxy))["a.test"] == ("a", frozenset({"t"}))

    await reconciler.put(service("a", server("t"), server("u", 3)))
    await reconciler._retry_removals(now=1e9)

    assert reconciler.pending == ()
    assert (await proxy.read()).servers[0]["u"] == ActualServer("10.0.0.3", 80, 100, ready=True)


async def test_cut_ends_the_connections_too() -> None:
    proxy, reconciler = await running_with(service("a", server("t")))
    proxy.connected.add((0, "t"))

    report = await reconciler.remove(ServiceId("a"), cut=True)

    assert report.pending == ()
    assert (await proxy.read()).servers == {}


async def test_everything_open_to_an_address_ends_whatever_service_it_belongs_to() -> None:
    """Also at servers that are being removed and wait for their last connections."""
    proxy, reconciler = await running_with(service("a", server("t", 1), server("u", 2)), service("b", server("t", 1)))
    proxy.connected |= {(0, "t"), (0, "u"), (1, "t")}
    assert (await reconciler.put(service("b"))).pending == (RemoveServer(1, "t"),)

    report = await reconciler.cut([ip_address("10.0.0.1")])

    assert report.errors == ()
    assert proxy.connected == {(0, "u")}
    servers = (await proxy.read()).servers
    assert (servers[0]["t"].ready, servers[0]["u"].ready) == (False, True)
    assert (await reconciler.cut([ip_address("10.0.0.1")])).errors == ()  # may be repeated


async def test_a_refused_step_is_reported_with_its_service_and_blocks_no_other() -> None:
    proxy, reconciler = await running_with()
    proxy.failing[AddServer(0, server("bad"))] = "out of memory"

    report = await reconciler.full([service("a", server("bad")), service("b", server("t"))])

    assert report.errors == ("a: AddServer: out of memory",)
    assert await served(proxy) == {"a.test": ("a", frozenset()), "b.test": ("b", frozenset({"t"}))}
    assert list(reconciler.problems) == list(report.errors)
    proxy.failing.clear()
    assert (await reconciler.compare()).errors == ()
    assert list(reconciler.problems) == []
    assert (await served(proxy))["a.test"] == ("a", frozenset({"bad"}))


async def test_a_used_up_pool_is_doubled_with_a_reload_that_loses_nothing() -> None:
    services = [service(name, server("t")) for name in "abcde"]
    proxy, reconciler = await running_with(*services[:4])
    await reconciler.put(service("a", server("u")))  # not in the files yet

    report = await reconciler.put(services[4])

    assert (report.reloaded, report.errors, proxy.reloads) == (True, (), 1)
    assert (await served(proxy))["a.test"] == ("a", frozenset({"u"}))
    assert (await served(proxy))["e.test"] == ("e", frozenset({"t"}))
    assert sorted(reconciler.owners) == [0, 1, 2, 3, 4]


async def test_another_reconciler_moves_nobody() -> None:
    proxy, first = await running_with(*(service(name, server("t")) for name in "abc"))
    await first.remove(ServiceId("a"))
    before = {number: owner for number, owner in first.owners.items() if owner != "a"}

    second = reconciler_for(proxy)
    report = await second.full([service(name, server("t")) for name in "cbd"])

    assert [type(outcome.step).__name__ for outcome in report.outcomes] == ["AddServer", "AddMap"]
    assert before.items() <= second.owners.items()


async def test_numbers_are_read_from_the_files_while_haproxy_is_away() -> None:
    proxy, first = await running_with(*(service(name) for name in "abc"))
    proxy.stop()

    second = reconciler_for(proxy)
    await second.full([service(name) for name in "cba"])

    assert second.owners == first.owners


async def test_a_haproxy_that_forgot_a_change_gets_it_again_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "TICK_S", 0.01)
    monkeypatch.setattr(reconcile, "WATCH_S", 0.02)
    proxy, reconciler = await running_with(service("a", server("t")))
    await reconciler.put(service("b", server("t")))
    proxy.start()  # killed before the files were saved
    assert "b.test" not in await served(proxy)

    stop = asyncio.Event()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(reconciler.run(stop))
        while "b.test" not in await served(proxy):  # noqa: ASYNC110  # the proxy tells nobody
            await asyncio.sleep(0.01)
        stop.set()

    assert proxy.files is not None
    assert "b.test" in parse_maps(proxy.files.maps)  # saved at the end


async def test_what_haproxy_holds_beside_the_desired_state_goes() -> None:
    proxy, reconciler = await running_with(service("a", server("t")))
    await proxy.apply([AddServer(3, server("stranger")), AddServer(0, server("other", 9))])

    await reconciler.compare()

    assert (await proxy.read()).servers == {0: {"t": ActualServer("10.0.0.1", 80, 100, ready=True)}}


async def test_nothing_is_removed_before_the_desired_state_is_known() -> None:
    reconciler = reconciler_for(MemoryProxy())
    with pytest.raises(RuntimeError, match="must come first"):
        await reconciler.compare()
    with pytest.raises(RuntimeError, match="must come first"):
        await reconciler.remove(ServiceId("a"))


names = st.sampled_from("abcdef")
hosts = st.sampled_from(["x.test", "y.test", "z.test", ""])
services = st.builds(
    lambda name, host, targets, path, sources: replace(
        service(name, *(server(target) for target in sorted(targets)), host=host), path=path, sources=sources
    ),
    names,
    hosts,
    st.sets(st.sampled_from("tuv")),
    st.sampled_from(["", "", "/x", "/x/y"]),
    st.sampled_from([(), (), CLOSED]),
)
actions = st.lists(st.one_of(services, names, st.sampled_from(["CRASH", "RESTART", "FLUSH", "BUSY"])), max_size=20)


@given(actions)
def test_any_history_ends_where_a_fresh_start_would(history: list[HttpService | str]) -> None:
    asyncio.run(live_through(history))


async def live_through(history: list[HttpService | str]) -> None:
    proxy, reconciler = await running_with(pool_size=2)
    desired: dict[str, HttpService] = {}
    for action in history:
        if isinstance(action, HttpService):
            desired.pop(action.id, None)
            desired[action.id] = action
            await reconciler.put(action)
        elif action == "CRASH":
            proxy.start()
            await reconciler.compare()
        elif action == "RESTART":
            reconciler = reconciler_for(proxy, pool_size=2)
            await reconciler.full(desired.values())
        elif action == "FLUSH":
            await reconciler.flush()
        elif action == "BUSY":
            proxy.connected = {(number, "t") for number in range(8)}
        else:
            desired.pop(action, None)
            await reconciler.remove(ServiceId(action))
        assert_no_stranger_is_met(await served(proxy), desired)
        assert_rules_are_there(proxy, reconciler, desired)
    proxy.connected.clear()
    await reconciler.compare()
    expected = {key: held.id for held in desired.values() for key in held.route_keys}
    assert expected == {key: name for key, (name, _) in (await served(proxy)).items()}
    assert (await reconciler.compare()).outcomes == ()


def assert_rules_are_there(proxy: MemoryProxy, reconciler: Reconciler, desired: dict[str, HttpService]) -> None:
    """Whoever is met has his rules, and nobody another's."""
    for number, owner in reconciler.owners.items():
        if owner in desired:
            assert ("is_source" in proxy.rules[number]) == bool(desired[owner].sources), (owner, proxy.rules[number])


def assert_no_stranger_is_met(found: dict[str, tuple[str, frozenset[str]]], desired: dict[str, HttpService]) -> None:
    for name, met in found.values():
        assert met == {server.name for server in desired[name].servers}, (name, met)
