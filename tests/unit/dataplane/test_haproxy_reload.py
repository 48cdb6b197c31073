"""Rules of services: they come with a reload, shared and hitless, and never to the wrong one."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from kakuremichi.dataplane.haproxy import reloading
from kakuremichi.dataplane.haproxy.desired import Frontend, HttpService
from kakuremichi.dataplane.haproxy.reconcile import Reconciler
from kakuremichi.dataplane.haproxy.reloading import Shared
from kakuremichi.dataplane.haproxy.report import Report
from kakuremichi.model.ids import ServiceId
from support.haproxy_memory import LAYOUT, closed, running_with, served, server, service


@pytest.fixture(autouse=True)
def no_gap_between_reloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "GAP_S", 0.0)


async def test_rules_take_a_reload_and_their_service_is_not_there_before() -> None:
    proxy, reconciler = await running_with(service("a", server("t")))

    report = await reconciler.put(closed("b", server("t")))

    assert (report.errors, report.reloaded, proxy.reloads) == ((), True, 1)
    assert "unless is_source" in proxy.rules[1]
    assert (await served(proxy))["b.test"] == ("b", frozenset({"t"}))
    assert (await reconciler.put(closed("b", server("u", 2)))).reloaded is False
    assert (await reconciler.put(service("b", server("u", 2)))).reloaded  # rules go by a reload, too
    assert proxy.rules[1] == ""


async def test_a_removed_service_leaves_its_rules_and_its_number_until_the_next_reload() -> None:
    proxy, reconciler = await running_with(closed("a", server("t")))

    await reconciler.remove(ServiceId("a"))
    await reconciler.flush()
    await reconciler.compare()
    assert (proxy.reloads, reconciler.owners) == (0, {0: "a"})
    for name in "bcd":
        await reconciler.put(service(name))
    assert 0 not in {number for number, owner in reconciler.owners.items() if owner != "a"}

    await reconciler.put(closed("e"))
    assert proxy.rules[0] == ""
    assert "a" not in reconciler.owners.values()


async def test_a_service_that_haproxy_refuses_is_named_and_the_others_get_theirs() -> None:
    proxy, reconciler = await running_with(closed("a", server("t")))
    proxy.refused = "192.168.66.0/24"
    bad = replace(closed("bad", server("t")), sources=("192.168.66.0/24",))

    reports = await asyncio.gather(*(reconciler.put(each) for each in (closed("b"), bad, closed("c"), closed("d"))))

    assert [report.errors for report in (reports[0], *reports[2:])] == [()] * 3
    assert reports[1].errors == ("bad: reload: HAProxy refused the new configuration; see haproxy.log",)
    assert set(await served(proxy)) == {"a.test", "b.test", "c.test", "d.test"}
    assert (await reconciler.put(service("plain"))).errors == ()
    assert (await reconciler.compare()).outcomes == ()


async def test_a_change_that_haproxy_refuses_leaves_the_service_as_it_was() -> None:
    proxy, reconciler = await running_with(closed("a", server("t")))
    proxy.refused = "192.168.66.0/24"

    report = await reconciler.put(replace(closed("a", server("u", 2)), sources=("192.168.66.0/24",)))

    assert report.errors[0].startswith("a: ")
    assert (await served(proxy))["a.test"] == ("a", frozenset({"t"}))
    assert "10.0.0.0/8" in proxy.rules[0]
    assert (await reconciler.put(closed("a", server("u", 2)))).errors == ()
    assert (await served(proxy))["a.test"] == ("a", frozenset({"u"}))


async def test_nothing_changes_when_haproxy_refuses_what_no_service_is_to_blame_for() -> None:
    proxy, _ = await running_with(closed("a", server("t")), service("b", server("t")))
    proxy.refused = "frontend visitors"

    second = Reconciler(proxy, Frontend(own_service=Path("/run/own.sock")), LAYOUT, pool_size=4)
    report = await second.full([closed("a", server("t")), service("b", server("u"))])

    assert "refused the new configuration" in report.errors[0]
    assert await served(proxy) == {"a.test": ("a", frozenset({"t"})), "b.test": ("b", frozenset({"t"}))}
    proxy.refused = ""
    assert (await second.compare()).errors == ()
    assert (await served(proxy))["b.test"] == ("b", frozenset({"u"}))


async def test_paths_of_a_host_come_with_a_mark_that_goes_with_the_last_of_them() -> None:
    proxy, reconciler = await running_with(service("a"))
    paths = [HttpService(ServiceId(name), "a.test", path=f"/{name}") for name in "bc"]
    for each in paths:
        await reconciler.put(each)
    assert set((await proxy.read()).routes) == {"a.test", "a.test/", "a.test/b/", "a.test/c/"}
    assert (await reconciler.full([service("a"), *paths])).outcomes == ()

    await reconciler.remove(ServiceId("c"))
    assert set((await proxy.read()).routes) == {"a.test", "a.test/", "a.test/b/"}
    await reconciler.remove(ServiceId("b"))
    assert set((await proxy.read()).routes) == {"a.test"}


async def test_who_asks_while_a_reload_runs_gets_the_next_one() -> None:
    runs: list[int] = []
    started, go = asyncio.Event(), asyncio.Event()

    async def perform() -> Report:
        runs.append(len(runs))
        started.set()
        await go.wait()
        return Report(reloaded=True)

    shared = Shared(perform)
    first = asyncio.create_task(shared.done(shared.ask()))
    await started.wait()
    late = [asyncio.create_task(shared.done(shared.ask())) for _ in range(3)]
    go.set()

    await asyncio.gather(first, *late)

    assert runs == [0, 1]


async def test_who_leads_may_give_up_and_the_others_are_served() -> None:
    runs: list[int] = []
    started, go = asyncio.Event(), asyncio.Event()

    async def perform() -> Report:
        runs.append(len(runs))
        started.set()
        await go.wait()
        return Report(reloaded=True)

    shared = Shared(perform)
    first, second = (asyncio.create_task(shared.done(shared.ask())) for _ in range(2))
    await started.wait()
    first.cancel()
    go.set()

    assert (await second).reloaded
    assert first.cancelled()
    assert runs == [0, 1]
