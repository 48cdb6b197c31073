"""From any state to any other: the order of the steps, and that they arrive."""

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.dataplane.haproxy.desired import RouteState, Server
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
    Wanted,
    WeighServer,
    parse_route,
    steps_between,
)
from kakuremichi.dataplane.haproxy.naming import parse_backend
from kakuremichi.model.ids import ServiceId

A, B = ServiceId("a"), ServiceId("b")
NOTHING = Actual({}, {})


def server(name: str, host: int = 1, *, weight: int = 100) -> Server:
    return Server(name, ip_address(f"10.0.0.{host}"), 80, weight)


def held(name: str, host: int = 1, *, weight: int = 100, ready: bool = True) -> tuple[str, ActualServer]:
    return name, ActualServer(f"10.0.0.{host}", 80, weight, ready)


def routes(**entries: Route) -> dict[str, frozenset[Route | None]]:
    return {f"{name}.test": frozenset((route,)) for name, route in entries.items()}


def test_a_new_service_gets_its_servers_before_its_name() -> None:
    wanted = Wanted({"a.test": Route(0, A)}, {0: {"t": server("t")}})

    assert steps_between(NOTHING, wanted) == (AddServer(0, server("t")), AddMap("a.test", Route(0, A)))


def test_a_removed_service_loses_its_name_before_its_servers() -> None:
    actual = Actual(routes(a=Route(0, A)), {0: dict([held("t")])})

    assert steps_between(actual, Wanted({}, {})) == (DelMap("a.test"), RemoveServer(0, "t"))


def test_a_target_is_swapped_without_a_moment_between() -> None:
    actual = Actual(routes(a=Route(0, A)), {0: dict([held("old")])})
    wanted = Wanted({"a.test": Route(0, A)}, {0: {"new": server("new", 2)}})

    assert steps_between(actual, wanted) == (AddServer(0, server("new", 2)), RemoveServer(0, "old"))


def test_a_backend_that_changes_hands_is_emptied_before_the_name_leads_into_it() -> None:
    actual = Actual({}, {0: dict([held("stranger")])})
    wanted = Wanted({"b.test": Route(0, B)}, {0: {"t": server("t")}})

    assert steps_between(actual, wanted) == (
        RemoveServer(0, "stranger"),
        AddServer(0, server("t")),
        AddMap("b.test", Route(0, B)),
    )


def test_what_can_be_changed_in_place_is_and_maintenance_ends_last() -> None:
    actual = Actual(routes(a=Route(0, A)), {0: dict([held("t", 1, weight=1, ready=False)])})
    wanted = Wanted({"a.test": Route(0, A, RouteState.PAUSED)}, {0: {"t": server("t", 2)}})

    assert steps_between(actual, wanted) == (
        MoveServer(0, server("t", 2)),
        WeighServer(0, server("t", 2)),
        EnableServer(0, "t"),
        SetMap("a.test", Route(0, A, RouteState.PAUSED)),
    )


def test_duplicates_that_differ_and_foreign_values_are_overwritten() -> None:
    wanted = Wanted({"a.test": Route(0, A)}, {})
    set_once = (SetMap("a.test", Route(0, A)),)

    assert steps_between(Actual({"a.test": frozenset((Route(0, A), Route(1, B)))}, {}), wanted) == set_once
    assert steps_between(Actual({"a.test": frozenset((None,))}, {}), wanted) == set_once


def test_only_our_own_values_and_backends_are_understood() -> None:
    assert parse_route("p7|svc-1|active") == Route(7, ServiceId("svc-1"))
    for value in ("", "p7", "p7|svc", "p7|svc|gone", "p7|Svc|active", "px|svc|active", "p-1|s|active", "p٣|s|active"):
        assert parse_route(value) is None, value
    for name, number in (("p0", 0), ("p12", 12), ("t0", 1_000_000), ("q1", None), ("p", None), ("p1234567", None)):
        assert parse_backend(name) == number, name


numbers = st.integers(0, 3)
servers = st.dictionaries(st.sampled_from("tuv"), st.tuples(st.integers(1, 3), st.sampled_from([0, 100])), max_size=3)
backends = st.dictionaries(numbers, servers)
route_maps = st.dictionaries(st.sampled_from(["x.test", "y.test"]), st.builds(Route, numbers, st.sampled_from([A, B])))


@given(backends, route_maps, backends, route_maps)
def test_any_state_is_reached_from_any_other(
    before: dict[int, dict[str, tuple[int, int]]],
    led: dict[str, Route],
    after: dict[int, dict[str, tuple[int, int]]],
    lead: dict[str, Route],
) -> None:
    actual = Actual(
        {key: frozenset((route,)) for key, route in led.items()},
        {n: dict(held(name, host, weight=w) for name, (host, w) in have.items()) for n, have in before.items()},
    )
    wanted = Wanted(
        lead, {n: {name: server(name, host, weight=w) for name, (host, w) in have.items()} for n, have in after.items()}
    )

    reached = perform(actual, steps_between(actual, wanted))

    assert steps_between(reached, wanted) == ()
    assert {key: frozenset((route,)) for key, route in lead.items()} == reached.routes


def perform(actual: Actual, steps: tuple[object, ...]) -> Actual:
    keys = dict(actual.routes)
    backends = {number: dict(have) for number, have in actual.servers.items()}
    for step in steps:
        match step:
            case AddMap(key, route) | SetMap(key, route):
                keys[key] = frozenset((route,))
            case DelMap(key):
                del keys[key]
            case AddServer(number, wanted) | MoveServer(number, wanted) | WeighServer(number, wanted):
                now = ActualServer(str(wanted.address), wanted.port, wanted.weight, ready=True)
                backends.setdefault(number, {})[wanted.name] = now
            case RemoveServer(number, name):
                del backends[number][name]
    return Actual(keys, backends)
