"""Subnets and slots: the lowest that is free, and never one that overlaps."""

from ipaddress import IPv4Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.model.addresses import IPNetwork
from kakuremichi_registry.allocator import (
    DEFAULT_NETWORKS,
    ExhaustedError,
    lowest_free_subnet,
    next_slot,
    overlaps,
    spans,
)

SMALL = (IPv4Network("10.0.0.0/20"), IPv4Network("192.168.0.0/22"))
ALL = [subnet for pool in SMALL for subnet in pool.subnets(new_prefix=24)]


def networks() -> st.SearchStrategy[list[IPNetwork]]:
    """Networks near the pools, of every size, also IPv6 ones and those without."""
    near = st.builds(
        lambda base, offset, prefix: ip_network((int(base) + offset, prefix), strict=False),
        st.sampled_from([pool.network_address for pool in SMALL]),
        st.integers(-(2**13), 2**13),
        st.integers(18, 32),
    )
    return st.lists(st.one_of(near, st.just(ip_network("fd00::/48"))), max_size=12)


@given(st.sets(st.sampled_from(ALL)), networks())
def test_the_subnet_is_the_first_of_all_that_overlap_nothing(taken: set[IPv4Network], avoid: list[IPNetwork]) -> None:
    free = [
        subnet
        for subnet in ALL
        if subnet not in taken and not any(net.version == 4 and net.overlaps(subnet) for net in avoid)
    ]
    assigned = [int(subnet.network_address) for subnet in taken]
    if free:
        assert lowest_free_subnet(SMALL, assigned, avoid) == free[0]
    else:
        with pytest.raises(ExhaustedError, match=r"10\.0\.0\.0/20, 192\.168\.0\.0/22"):
            lowest_free_subnet(SMALL, assigned, avoid)


@given(networks())
def test_spans_hold_the_same_addresses_and_are_disjoint(nets: list[IPNetwork]) -> None:
    found = spans(nets)
    assert all(first <= last for first, last in found)
    assert all(found[i][1] + 1 < found[i + 1][0] for i in range(len(found) - 1))
    for net in nets:
        if net.version == 4:
            assert any(
                first <= int(net.network_address) and int(net.broadcast_address) <= last for first, last in found
            )


@pytest.mark.parametrize(
    ("avoid", "expected"),
    [
        ((), "10.0.0.0/24"),
        (("10.0.0.5/32",), "10.0.1.0/24"),
        (("10.0.0.0/8",), "100.64.0.0/24"),
        (("0.0.0.0/1",), "172.16.0.0/24"),
        (("10.0.0.0/9", "10.128.0.0/16"), "10.129.0.0/24"),
        (("fc00::/7",), "10.0.0.0/24"),
    ],
)
def test_the_default_pools_in_their_order(avoid: tuple[str, ...], expected: str) -> None:
    assert lowest_free_subnet(DEFAULT_NETWORKS, (), map(ip_network, avoid)) == IPv4Network(expected)


def test_40_000_assigned_subnets_are_no_burden() -> None:
    assigned = range(int(IPv4Network("10.0.0.0/8").network_address), 40_000 * 256 + 10 * 2**24, 256)
    assert lowest_free_subnet(DEFAULT_NETWORKS, assigned, ()) == IPv4Network("10.156.64.0/24")


@given(st.sets(st.integers(1, 99)), st.dictionaries(st.integers(1, 99), st.floats(0, 1000)))
def test_slots_never_used_come_first_and_then_the_one_that_rested_longest(
    live: set[int], freed: dict[int, float]
) -> None:
    unused = [slot for slot in range(1, 100) if slot not in live and slot not in freed]
    resting = {slot: at for slot, at in freed.items() if slot not in live}
    if unused:
        assert next_slot(live, freed) == unused[0]
    elif resting:
        assert resting[next_slot(live, freed)] == min(resting.values())
    else:
        with pytest.raises(ExhaustedError, match="99"):
            next_slot(live, freed)


def test_overlaps_names_node_and_subnet() -> None:
    subnets = [("site-a", int(IPv4Network("10.0.0.0/24").network_address)), ("site-b", 0)]
    assert overlaps(subnets, [ip_network("10.0.0.128/25")]) == ("site-a 10.0.0.0/24",)
