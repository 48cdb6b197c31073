"""Which service a path means: a model in Python, and the real HAProxy beside it."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kakuremichi.dataplane.haproxy.desired import HttpService, Server
from kakuremichi.dataplane.haproxy.proxy import Haproxy
from kakuremichi.model.ids import ServiceId
from kakuremichi.model.options import Http, Options
from support.haproxy import Gateway, Target, ask, gateway, get, status, targets

EXACT = Options(http=Http(exact=True))


@dataclass(frozen=True)
class Way:
    host: str
    path: str = ""
    exact: bool = False


def service_of(name: str, way: Way, *servers: Server) -> HttpService:
    options = EXACT if way.exact else Options()
    return HttpService(ServiceId(name), way.host, servers, path=way.path, options=options)


def meant(ways: Sequence[Way], host: str, path: str) -> int | None:
    """The index of the way that a request takes, None for nobody's, -1 for a path that is refused."""
    wild = re.sub(r"^[^.]*", "*", host)
    alone = [index for index, way in enumerate(ways) if way == Way(host)]
    looked_at = {host} if alone else {host, wild}
    if any(way.path and way.host in looked_at for way in ways):
        compared = re.sub(r";[^/]*", "", path)
        if re.search(r"%(2e|2f|5c|00)", compared, re.IGNORECASE) or re.search(r"%(?![0-9a-fA-F]{2})", compared):
            return -1
        path = unquote(compared, "latin-1")
        if not path.startswith("/") or re.search(r"//|/\.\.?(/|$)|\\", path):
            return -1
    for name in (host, wild):
        exact = [index for index, way in enumerate(ways) if way == Way(name, path, exact=True)]
        below = [
            (len(way.path), index)
            for index, way in enumerate(ways)
            if way.host == name and not way.exact and f"{path}/".startswith(f"{way.path}/")
        ]
        if exact or below:
            return exact[-1] if exact else max(below)[1]
    return None


@pytest.fixture
async def rig(run_dir: Path, free_port: Callable[[], int]) -> AsyncIterator[tuple[Gateway, tuple[Target, ...]]]:
    names = [f"t{number}" for number in range(6)]
    async with gateway(run_dir, f"80=127.0.0.1:{free_port()}") as made, targets(free_port, *names) as (*held,):
        yield made, tuple(held)


WAYS = (
    Way("a.w.test"),
    Way("a.w.test", "/api"),
    Way("a.w.test", "/api/v1"),
    Way("a.w.test", "/api/v1/health", exact=True),
    Way("*.w.test", "/api"),
    Way("*.w.test"),
)
ASKED = [
    ("a.w.test", "/", 0),
    ("a.w.test", "/api", 1),
    ("a.w.test", "/api/", 1),
    ("a.w.test", "/apix", 0),
    ("a.w.test", "/api?x=/api/v1/", 1),
    ("a.w.test", "/api/v1", 2),
    ("a.w.test", "/api/v1/health", 3),
    ("a.w.test", "/api/v1/health/", 2),
    ("a.w.test", "/api/v1/healthy", 2),
    ("a.w.test", "/API", 0),
    ("A.W.Test:80", "/api/v1/x", 2),
    ("b.w.test", "/", 5),
    ("b.w.test", "/api/v1", 4),
    ("x.b.w.test", "/", None),
    ("test.w.test", "/apis", 5),
    # said otherwise, read the same
    ("a.w.test", "/%61pi/x", 1),
    ("a.w.test", "/api;v=1/x", 1),
    ("a.w.test", "/%61%70i;x/v1", 2),
    ("a.w.test", "/api%3bv=1/x", 0),
    ("a.w.test", "/%2561pi", 0),
    # readable in more than one way
    ("a.w.test", "/x/../api", -1),
    ("a.w.test", "/x/..", -1),
    ("a.w.test", "/./api", -1),
    ("a.w.test", "//api", -1),
    ("a.w.test", "/x%2f..%2fapi", -1),
    ("a.w.test", "/x%2Fapi", -1),
    ("a.w.test", "/%2e%2e/api", -1),
    ("a.w.test", "/..;/api", -1),
    ("a.w.test", "/x\\api", -1),
    ("a.w.test", "/x%5Capi", -1),
    ("a.w.test", "/api%00", -1),
    ("a.w.test", "/api%zz", -1),
    ("a.w.test", "/api%", -1),
    ("b.w.test", "/x/../api", -1),
]


async def answered(rig: Gateway, host: str, path: str) -> int | None:
    """In the terms of `meant`."""
    answer = await ask(rig.port, get(host, path))
    code = int(answer.split(b" ", 2)[1])
    if code in {400, 404}:
        return {400: -1, 404: None}[code]
    found = re.search(rb'"target": "t(\d)"', answer)
    assert found, answer
    return int(found[1])


async def test_the_longest_match_wins_and_no_other_spelling_leads_around_it(
    rig: tuple[Gateway, tuple[Target, ...]],
) -> None:
    gate, held = rig
    for number, way in enumerate(WAYS):
        assert (await gate.reconciler.put(service_of(f"s{number}", way, held[number].server()))).errors == ()

    assert [(host, path, await answered(gate, host, path)) for host, path, _ in ASKED] == ASKED
    modelled = [meant(WAYS, re.sub(r":.*", "", host.lower()), path.partition("?")[0]) for host, path, _ in ASKED]
    assert modelled == [expected for _, _, expected in ASKED]


async def test_a_host_without_paths_of_its_own_gets_every_path_as_it_came(
    rig: tuple[Gateway, tuple[Target, ...]],
) -> None:
    gate, (target, *_) = rig
    await gate.reconciler.put(service_of("s", Way("a.w.test"), target.server()))
    await gate.reconciler.put(service_of("other", Way("b.w.test", "/x"), target.server()))
    strange = ["/a%2Fb", "//x", "/x/../y", "/%zz", "/a;b", "/%2e%2e/", "/x\\y"]

    for path in strange:
        assert await status(gate.port, get("a.w.test", path)) == 200

    assert [request["path"] for request in target.requests] == strange


async def test_paths_come_and_go_at_run_time_and_the_rest_of_the_host_never_fails(
    rig: tuple[Gateway, tuple[Target, ...]],
) -> None:
    gate, (whole, api, *_) = rig
    await gate.reconciler.put(service_of("whole", Way("a.w.test"), whole.server()))
    for _ in range(3):
        report = await gate.reconciler.put(service_of("api", Way("a.w.test", "/api"), api.server()))
        assert (report.errors, report.reloaded) == ((), False)
        assert await status(gate.port, get("a.w.test", "/api/x")) == 200
        assert await status(gate.port, get("a.w.test", "/x")) == 200
        await gate.reconciler.remove(ServiceId("api"))
        assert await status(gate.port, get("a.w.test", "/api/y")) == 200

    assert [request["path"] for request in api.requests] == ["/api/x"] * 3
    assert [request["path"] for request in whole.requests] == ["/x", "/api/y"] * 3
    assert set((await Haproxy(gate.layout).read()).routes) == {"a.w.test"}


async def test_with_the_last_target_of_a_path_its_prefix_does_not_lead_to_the_host(
    rig: tuple[Gateway, tuple[Target, ...]],
) -> None:
    gate, (whole, *_) = rig
    await gate.reconciler.put(service_of("whole", Way("a.w.test"), whole.server()))
    await gate.reconciler.put(service_of("api", Way("a.w.test", "/api")))

    assert await status(gate.port, get("a.w.test", "/api/x")) == 503
    assert whole.requests == []


segments = st.sampled_from(
    ["a", "ab", "b", "A", "a.b", "~", "$&(1)", "a+b,c=d:@!*", "%61", "a;x", "%2e", "..", "", "%zz"]
)
hosts = st.sampled_from(["a.w.test", "b.w.test", "*.w.test", "x.a.w.test", "*.a.w.test"])
stored = st.lists(st.sampled_from(["a", "ab", "b", "A", "a.b", "~", "$&(1)", "a+b,c=d:@!*"]), max_size=3)
ways = st.builds(
    lambda host, parts, exact: Way(host, "".join(f"/{part}" for part in parts), exact=exact and bool(parts)),
    hosts,
    stored,
    st.booleans(),
)
paths = st.lists(segments, min_size=1, max_size=4).map(lambda parts: "".join(f"/{part}" for part in parts))
requests = st.lists(
    st.tuples(st.sampled_from(["a.w.test", "b.w.test", "x.a.w.test", "y.x.a.w.test"]), paths), max_size=12
)


async def test_haproxy_finds_what_the_model_finds(rig: tuple[Gateway, tuple[Target, ...]]) -> None:
    """One HAProxy for all examples: each replaces the services of the one before."""
    gate, held = rig
    loop = asyncio.get_running_loop()

    async def compared(rules: list[Way], asked: list[tuple[str, str]]) -> None:
        services = [service_of(f"s{n}", way, held[n].server()) for n, way in enumerate(rules)]
        assert (await gate.reconciler.full(services)).errors == ()
        found = [(host, path, await answered(gate, host, path)) for host, path in asked]
        assert found == [(host, path, meant(rules, host, path)) for host, path in asked]

    @settings(max_examples=150, deadline=None)
    @given(st.lists(ways, unique=True, max_size=6), requests)
    def example(rules: list[Way], asked: list[tuple[str, str]]) -> None:
        asyncio.run_coroutine_threadsafe(compared(rules, asked), loop).result(20)

    await asyncio.to_thread(example)
