"""What a service may ask for, each as a visitor meets it: a real HAProxy on loopback."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kakuremichi.dataplane.haproxy import reloading
from kakuremichi.dataplane.haproxy.desired import HttpService, Server, ServiceState
from kakuremichi.dataplane.haproxy.proxy import Haproxy
from kakuremichi.dataplane.haproxy.reconcile import Reconciler
from kakuremichi.dataplane.haproxy.stats import Ledger, read_workers
from kakuremichi.model.ids import ServiceId
from kakuremichi.model.options import NO_OPTIONS, Headers, Http, Limits, Options, Timeouts
from support.haproxy import LOOPBACK, Gateway, Target, ask, gateway, get, knocking, service, status, targets, until

HOSTILE = '100% %[src] %{+Q}o $HOME ${HOME} `id` "quo\'ted" \\back \\n # hash ; | end'


@pytest.fixture
async def rig(run_dir: Path, free_port: Callable[[], int]) -> AsyncIterator[Gateway]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reloading, "GAP_S", 0.0)
        async with gateway(run_dir, f"80=127.0.0.1:{free_port()}") as made:
            yield made


@pytest.fixture
async def target(free_port: Callable[[], int]) -> AsyncIterator[Target]:
    async with targets(free_port, "t") as (made,):
        yield made


async def put(rig: Gateway, options: Options, *servers: Server, path: str = "", sources: tuple[str, ...] = ()) -> None:
    asked = HttpService(ServiceId("a"), "a.test", servers, path=path, options=options, sources=sources)
    report = await rig.reconciler.put(asked)
    assert report.errors == (), rig.said()


def seen(target: Target) -> dict[str, str]:
    headers = target.requests[-1]["headers"]
    assert isinstance(headers, dict)
    return headers


class TestSources:
    @pytest.mark.parametrize("sources", [("127.0.0.0/8",), ("10.0.0.0/8", "127.0.0.1/32", "2001:db8::/32")])
    async def test_those_named_may_come(self, rig: Gateway, target: Target, sources: tuple[str, ...]) -> None:
        await put(rig, NO_OPTIONS, target.server(), sources=sources)

        assert await status(rig.port, get("a.test")) == 200

    async def test_everybody_else_is_refused_before_the_target(self, rig: Gateway, target: Target) -> None:
        many = tuple(f"10.{number}.0.0/16" for number in range(200))
        await put(rig, NO_OPTIONS, target.server(), sources=(*many, "2001:db8::/32"))

        assert await status(rig.port, get("a.test")) == 403
        assert target.requests == []

    async def test_a_service_is_never_met_without_its_rules(self, rig: Gateway, target: Target) -> None:
        """Also while the reload that brings them is under way."""
        closed = HttpService(ServiceId("a"), "a.test", (target.server(),))
        async with knocking(rig.port, "a.test") as count:
            for number in range(3):
                report = await rig.reconciler.put(replace(closed, sources=(f"10.{number}.0.0/16",)))
                assert (report.errors, report.reloaded) == ((), True)
                await rig.reconciler.remove(closed.id)

        assert (count.answered, count.refused, count.lost, target.requests) == (0, 0, 0, [])
        assert {answer[9:12] for answer in count.other} == {b"404", b"403"}


class TestLimits:
    async def test_a_rate_lets_its_number_through_and_refuses_the_rest(self, rig: Gateway, target: Target) -> None:
        await put(rig, Options(limits=Limits(rate=5)), target.server())

        codes = await asyncio.gather(*(status(rig.port, get("a.test")) for _ in range(40)))

        assert set(codes) == {200, 429}
        assert len(target.requests) == codes.count(200)
        assert await until(lambda: _is(rig, 200))  # those who were refused do not count

    async def test_a_rate_per_client_counts_each_for_himself(self, rig: Gateway, target: Target) -> None:
        await put(rig, Options(limits=Limits(rate_per_client=2, rate=1_000_000)), target.server())

        codes = await asyncio.gather(*(status(rig.port, get("a.test")) for _ in range(20)))

        assert set(codes) == {200, 429}

    @pytest.mark.parametrize("limits", [Limits(connections=1), Limits(connections_per_client=1)])
    async def test_so_many_at_once_and_no_more(self, rig: Gateway, target: Target, limits: Limits) -> None:
        await put(rig, Options(limits=limits), target.server())
        first = asyncio.create_task(ask(rig.port, get("a.test", "/hang")))
        await target.asked.wait()

        assert await status(rig.port, get("a.test")) == 429

        target.released.set()
        await first
        assert await until(lambda: _is(rig, 200))

    @pytest.mark.parametrize("limit", [100, 1_000_000])
    async def test_a_body_that_is_too_large_is_refused(self, rig: Gateway, target: Target, limit: int) -> None:
        await put(rig, Options(limits=Limits(body=limit)), target.server())

        assert await status(rig.port, _post(limit)) == 200
        assert await status(rig.port, _post(limit + 1)) == 413
        assert len(target.requests) == 1

    async def test_a_body_of_unknown_length_is_counted_or_has_to_say_it(self, rig: Gateway, target: Target) -> None:
        await put(rig, Options(limits=Limits(body=100)), target.server())
        assert await status(rig.port, _chunked(100)) == 200
        assert await status(rig.port, _chunked(101)) == 413
        assert await status(rig.port, _chunked(60_000)) == 413

        await put(rig, Options(limits=Limits(body=1_000_000)), target.server())
        assert await status(rig.port, _chunked(100)) == 411
        assert await status(rig.port, get("a.test")) == 200  # no body at all
        assert [request["path"] for request in target.requests] == ["/", "/"]


async def _is(rig: Gateway, code: int) -> bool:
    return await status(rig.port, get("a.test")) == code


def _post(size: int) -> str:
    return f"POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n" + "x" * size


def _chunked(size: int) -> str:
    head = "POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    return f"{head}{size:x}\r\n{'x' * size}\r\n0\r\n\r\n"


class TestPaths:
    @pytest.mark.parametrize(
        ("http", "asked", "met"),
        [
            (Http(strip_prefix=True), "/api/v1/x?y=/api/v1", "/x?y=/api/v1"),
            (Http(strip_prefix=True), "/api/v1", "/"),
            (Http(strip_prefix=True), "/api/v1/", "/"),
            (Http(strip_prefix=True), "/api/v1/api/v1", "/api/v1"),
            (Http(replace_prefix="/b.$1/c"), "/api/v1/x", "/b.$1/c/x"),
            (Http(replace_prefix="/b"), "/api/v1?q", "/b?q"),
            (Http(exact=True, strip_prefix=True), "/api/v1", "/"),
            (Http(), "/api/v1/x%20y", "/api/v1/x%20y"),
        ],
    )
    async def test_the_target_sees_the_path_that_was_asked_for(
        self, rig: Gateway, target: Target, http: Http, asked: str, met: str
    ) -> None:
        await put(rig, Options(http=http), target.server(), path="/api/v1")

        assert await status(rig.port, get("a.test", asked)) == 200

        assert target.requests[-1]["path"] == met
        if http.strip_prefix or http.replace_prefix:
            assert seen(target)["x-forwarded-prefix"] == "/api/v1"

    async def test_a_prefix_that_is_written_otherwise_is_not_cut_off(self, rig: Gateway, target: Target) -> None:
        await put(rig, Options(http=Http(strip_prefix=True)), target.server(), path="/a.i")

        assert await status(rig.port, get("a.test", "/%61.i/x")) == 400
        assert await status(rig.port, get("a.test", "/api/x")) == 404
        assert target.requests == []


class TestHeaders:
    async def test_they_are_set_and_removed_as_they_are_written(self, rig: Gateway, target: Target) -> None:
        request = Headers(set={"X-Hostile": HOSTILE, "X-Empty": ""}, remove=("X-Secret", "Accept"))
        response = Headers(set={"X-Back": HOSTILE, "Content-Type": "text/plain"}, remove=("Server",))
        await put(rig, Options(http=Http(request=request, response=response)), target.server())

        answer = await ask(rig.port, get("a.test", "/", "X-Secret: 1", "X-Hostile: from visitor", "Accept: */*"))

        head = answer.partition(b"\r\n\r\n")[0].decode().splitlines()
        assert seen(target)["x-hostile"] == HOSTILE
        assert not {"x-secret", "accept"} & set(seen(target))
        assert f"x-back: {HOSTILE}" in [line.replace("X-Back", "x-back") for line in head]
        assert [line.lower() for line in head if line.lower().startswith(("content-type", "server"))] == [
            "content-type: text/plain"
        ]


class TestPages:
    PAGE = f"<h1>back soon</h1>\n\t{HOSTILE} é 道 {'x' * 7000}"

    async def test_a_paused_service_and_one_without_targets_show_the_page(self, rig: Gateway, target: Target) -> None:
        options = Options(http=Http(pages={503: self.PAGE}))
        paused = HttpService(ServiceId("a"), "a.test", (target.server(),), ServiceState.PAUSED, options=options)
        for asked in (paused, replace(paused, servers=(), state=ServiceState.ACTIVE)):
            assert (await rig.reconciler.put(asked)).errors == ()
            answer = await ask(rig.port, get("a.test"))
            assert answer.startswith(b"HTTP/1.1 503")
            assert answer.partition(b"\r\n\r\n")[2].decode() == self.PAGE

        await rig.reconciler.put(replace(paused, state=ServiceState.ACTIVE))
        assert await status(rig.port, get("a.test")) == 200
        assert len(target.requests) == 1

    async def test_so_do_refusals_and_targets_that_fail(self, rig: Gateway, free_port: Callable[[], int]) -> None:
        pages = {403: "no", 429: "slowly", 502: "bad", 503: "away", 413: "large"}
        options = Options(http=Http(pages=pages), limits=Limits(body=10))
        await put(rig, options, Server("dead", LOOPBACK, free_port()))

        assert (await ask(rig.port, get("a.test"))).endswith(b"\r\n\r\naway")
        assert (await ask(rig.port, _post(11))).endswith(b"\r\n\r\nlarge")
        await put(rig, options, sources=("10.0.0.0/8",))
        assert (await ask(rig.port, get("a.test"))).endswith(b"\r\n\r\nno")

    async def test_paused_is_an_option_too(self, rig: Gateway, target: Target) -> None:
        await put(rig, Options(paused=True), target.server())

        assert b"paused: this service is paused" in await ask(rig.port, get("a.test"))


async def test_a_target_that_is_silent_for_too_long_is_given_up(rig: Gateway, target: Target) -> None:
    await put(rig, Options(timeouts=Timeouts(response=1)), target.server())

    assert await status(rig.port, get("a.test", "/hang")) == 504


class TestReload:
    async def test_many_changes_share_few_reloads_and_are_reported_when_they_are_done(
        self, rig: Gateway, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reloading, "GAP_S", 0.5)
        first, before = await rig.processes(), rig.said().count("Reloading HAProxy")
        reports = await asyncio.gather(
            *(
                rig.reconciler.put(replace(service(f"s{n}", target.server()), sources=("127.0.0.0/8",)))
                for n in range(8)
            )
        )

        assert [report.errors for report in reports] == [()] * 8
        assert all(report.reloaded for report in reports)
        for number in range(8):
            assert await status(rig.port, get(f"s{number}.test")) == 200
        assert rig.said().count("Reloading HAProxy") - before in {1, 2}  # the first one at once, the rest in another
        assert (await rig.processes())[1] != first[1]

    async def test_servers_of_a_service_with_rules_change_without_one(
        self, rig: Gateway, free_port: Callable[[], int]
    ) -> None:
        async with targets(free_port, "one", "two") as (one, two):
            await put(rig, Options(limits=Limits(rate=1000)), one.server())
            before = await rig.processes()
            await put(rig, Options(limits=Limits(rate=1000)), two.server())

            assert await status(rig.port, get("a.test")) == 200
            assert (len(one.requests), len(two.requests)) == (0, 1)
            assert await rig.processes() == before

    async def test_rules_change_under_load_without_a_failed_request(self, rig: Gateway, target: Target) -> None:
        await put(rig, NO_OPTIONS, target.server())
        async with knocking(rig.port, "a.test") as count:
            for number in range(4):
                await put(rig, Options(limits=Limits(rate=100_000 + number)), target.server())

        assert (count.refused, count.lost, count.other) == (0, 0, [])
        assert count.answered > 0

    async def test_nobody_inherits_the_rules_of_a_service_that_is_gone(
        self, run_dir: Path, rig: Gateway, target: Target
    ) -> None:
        closed = HttpService(ServiceId("closed"), "closed.test", (target.server(),), sources=("10.0.0.0/8",))
        await rig.reconciler.put(closed)
        await rig.reconciler.remove(closed.id)
        await rig.reconciler.flush()

        for number in range(8):  # the pool has 8 backends
            assert (await rig.reconciler.put(service(f"s{number}", target.server()))).errors == ()
            assert await status(rig.port, get(f"s{number}.test")) == 200

    async def test_a_haproxy_that_came_back_with_older_rules_gets_the_present_ones(
        self, rig: Gateway, target: Target
    ) -> None:
        await put(rig, NO_OPTIONS, target.server())
        await rig.reconciler.flush()
        old = await Haproxy(rig.layout).saved()
        assert old is not None
        await put(rig, NO_OPTIONS, target.server(), sources=("10.0.0.0/8",))
        await Haproxy(rig.layout).reload(old)  # as after a kill that came before the files
        assert await status(rig.port, get("a.test")) == 200

        assert (await rig.reconciler.compare()).reloaded

        assert await status(rig.port, get("a.test")) == 403

    @pytest.mark.parametrize("victim", [0, 1], ids=["master", "worker"])
    async def test_a_haproxy_that_is_killed_comes_back_with_them(
        self, rig: Gateway, target: Target, victim: int
    ) -> None:
        """From the files: nothing of ours looks after it."""
        await put(rig, NO_OPTIONS, target.server(), sources=("10.0.0.0/8",))
        before = await rig.processes()
        async with knocking(rig.port, "a.test") as count:
            os.kill(before[victim], signal.SIGKILL)
            await rig.other_processes(before)
            assert await status(rig.port, get("a.test")) == 403

        assert (count.answered, count.refused, target.requests) == (0, 0, [])
        assert {answer[9:12] for answer in count.other} == {b"403"}

    async def test_another_process_of_ours_takes_them_over_without_one(self, rig: Gateway, target: Target) -> None:
        asked = replace(service("a", target.server()), sources=("127.0.0.0/8",))
        await rig.reconciler.put(asked)
        before = await rig.processes()

        again: Reconciler = rig.another_reconciler()
        report = await again.full([asked])

        assert (report.errors, report.reloaded, report.outcomes) == ((), False, ())
        assert await rig.processes() == before

    async def test_counters_go_on_over_it_also_for_connections_of_the_old_worker(
        self, rig: Gateway, target: Target
    ) -> None:
        await put(rig, NO_OPTIONS, target.server())
        ledger = Ledger()

        async def count() -> int:
            totals = ledger.update(await read_workers(rig.layout), rig.reconciler.owners)
            return totals[ServiceId("a")].requests

        assert await count() == 0
        rig.reconciler.before_reload = count
        hanging = asyncio.create_task(ask(rig.port, get("a.test", "/hang")))
        await target.asked.wait()
        for number in range(3):
            assert await status(rig.port, get("a.test")) == 200
            await put(rig, Options(limits=Limits(rate=1000 + number)), target.server())
        assert await count() == 4
        target.released.set()
        await hanging
