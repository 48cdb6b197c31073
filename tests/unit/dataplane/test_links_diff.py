"""An interface ends where it should, whatever was there and whatever fails on the way."""

import asyncio
from ipaddress import ip_interface, ip_network

from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.dataplane.links.desired import LinkState
from kakuremichi.dataplane.links.diff import (
    AddAddress,
    AddRoute,
    RemoveAddress,
    RemoveRoute,
    SetAlias,
    SetMtu,
    SetUp,
    steps_between,
)
from kakuremichi.dataplane.links.memory import MemoryLink
from kakuremichi.dataplane.links.reconcile import reconcile

interfaces = st.frozensets(st.sampled_from([ip_interface(f"10.0.{n}.1/24") for n in range(4)]))
networks = st.frozensets(st.sampled_from([ip_network(f"10.1.{n}.0/24") for n in range(4)]))
states = st.builds(
    LinkState,
    st.sampled_from(["", "kakuremichi:a:b"]),
    st.just(value=True),
    st.sampled_from([1280, 1420]),
    interfaces,
    networks,
)


@given(states, states, st.booleans(), st.sets(st.integers(0, 8)))
def test_any_state_is_reached_after_failures(
    before: LinkState, after: LinkState, starts_down: bool, fail_at: set[int]
) -> None:
    if starts_down:
        before = LinkState(before.alias, up=False, mtu=before.mtu, addresses=before.addresses)
    link = MemoryLink("wg0", before, fail_at)

    asyncio.run(reconcile(after, link))
    link.fail_at = frozenset()
    asyncio.run(reconcile(after, link))

    assert link.state == after
    assert asyncio.run(reconcile(after, link)) == ()


def test_the_mark_comes_first_and_removals_last() -> None:
    old, new = ip_interface("10.0.1.1/24"), ip_interface("10.0.2.1/24")
    gone, wanted = ip_network("10.1.0.0/24"), ip_network("fd00::/64")
    actual = LinkState("", up=False, mtu=1500, addresses=frozenset({old}), routes=frozenset({gone}))
    desired = LinkState("kakuremichi:a:b", addresses=frozenset({new}), routes=frozenset({wanted}))

    assert steps_between(actual, desired) == (
        SetAlias("kakuremichi:a:b"),
        SetMtu(1420),
        SetUp(up=True),
        AddAddress(new),
        AddRoute(wanted),
        RemoveRoute(gone),
        RemoveAddress(old),
    )


def test_both_families_are_put_in_one_order() -> None:
    routes = frozenset(ip_network(text) for text in ("fd00::/64", "10.2.0.0/24", "10.1.0.0/24"))

    steps = steps_between(LinkState(""), LinkState("", routes=routes))

    assert [str(step.network) for step in steps if isinstance(step, AddRoute)] == [
        "10.1.0.0/24",
        "10.2.0.0/24",
        "fd00::/64",
    ]


def test_a_strangers_route_stays_a_reported_error() -> None:
    taken = ip_network("10.1.0.0/24")
    link = MemoryLink("wg0", LinkState(""), strangers=[taken])

    outcomes = asyncio.run(reconcile(LinkState("", routes=frozenset({taken})), link))

    assert [outcome.error for outcome in outcomes] == ["route 10.1.0.0/24: there is one already"]
