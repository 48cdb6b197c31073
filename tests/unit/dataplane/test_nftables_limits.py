"""Limits as elements: which a service has, what nft reads and says of them, and which chains come and go."""

import re
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.dataplane.nftables.elements import Element, ItemRefusedError, Ports
from kakuremichi.dataplane.nftables.gateway import (
    TCP_DOOR,
    GatewayTable,
    L4Service,
    gateway_desired,
    gateway_elements,
    gateway_wide_elements,
)
from kakuremichi.dataplane.nftables.guards import GUARDS, Guards, guard_chain
from kakuremichi.dataplane.nftables.limits import (
    MAX_BANDWIDTH,
    Policy,
    number_said,
    policy_of,
    policy_rules,
)
from kakuremichi.dataplane.nftables.memory import MemoryTable
from kakuremichi.dataplane.nftables.reconcile import Reconciler
from kakuremichi.dataplane.nftables.render import AddElements, RemovePolicies, script
from kakuremichi.model.options import Limits

MARK = "0x6b000001"
SERVICE = L4Service(number=1, proto="tcp", ports=Ports.of(5432), agent_port=20001, target=IPv4Address("10.1.0.100"))


def limited(**limits: int) -> L4Service:
    return replace(SERVICE, limits=Limits(**limits))


def of_limits(service: L4Service) -> set[Element]:
    return set(gateway_elements(service) - gateway_elements(SERVICE))


def test_a_service_without_limits_has_no_element_of_them() -> None:
    assert of_limits(limited()) == set()


def test_a_limit_on_new_flows_opens_the_gate_to_all_of_them() -> None:
    assert of_limits(limited(rate=5)) == {
        Element("rate", (MARK,), ("5",)),
        Element("limited", (MARK,)),
        Element("refused", (MARK,)),
    }


def test_bandwidth_alone_costs_a_new_flow_nothing() -> None:
    assert of_limits(limited(bandwidth=10**6)) == {Element("bandwidth", (MARK,), ("1000000",))}


@pytest.mark.parametrize(
    ("service", "sentence"),
    [
        (limited(bandwidth=MAX_BANDWIDTH + 1), "limits.bandwidth 8589934593 is not within"),
        (limited(bandwidth_per_client=1), "limits.bandwidth_per_client is of http; tcp has bandwidth in all"),
        (replace(SERVICE, proto="udp", carried=frozenset({6})), "only tcp can be carried by HAProxy, not udp"),
    ],
)
def test_what_nft_cannot_keep_is_refused_with_a_sentence(service: L4Service, sentence: str) -> None:
    with pytest.raises(ItemRefusedError, match=sentence):
        gateway_elements(service)


def test_a_family_that_haproxy_carries_has_its_door_in_the_place_of_a_target() -> None:
    both = gateway_elements(replace(SERVICE, carried=frozenset({4, 6})))
    six = gateway_elements(replace(SERVICE, carried=frozenset({6})))

    assert {Element("carried4", (MARK,), (str(TCP_DOOR),)), Element("carried6", (MARK,), (str(TCP_DOOR),))} <= both
    assert not {element.container for element in both} & {"to4", "to6"}
    assert {element.container for element in six} >= {"to4", "carried6"}
    assert {element.key[0] for element in six if element.container == "ports"} == {"ipv4", "ipv6"}


def test_what_the_host_fetches_itself_is_limited_by_the_agents_port() -> None:
    table = GatewayTable("wg", 7, shaped={(IPv4Address("10.1.0.100"), 20001): 5000})

    assert gateway_wide_elements(table) == {Element("shaped", ("10.1.0.100", "20001"), ("5000",))}
    with pytest.raises(ItemRefusedError, match=r"target 10\.1\.0\.100 port 20001: limits\.bandwidth 0"):
        gateway_wide_elements(replace(table, shaped={(IPv4Address("10.1.0.100"), 20001): 0}))


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ({"limit": {"rate": 7, "burst": 7, "per": "second", "inv": True}}, "7"),
        ({"limit": {"rate": 3, "rate_unit": "mbytes", "burst": 64, "burst_unit": "kbytes", "inv": True}}, "3145728"),
        ({"limit": {"rate": 1000, "rate_unit": "bytes", "per": "second"}}, "1000"),
        ({"ct count": {"val": 12, "inv": True}}, "12"),
        ({"val": 1}, None),
    ],
)
def test_nfts_units_become_plain_numbers(said: dict[str, Any], number: str | None) -> None:
    assert number_said(said) == number


@given(st.sampled_from(["client_rate", "client_conns"]), st.integers(1, 2**31 - 1))
def test_a_policys_chain_names_it_and_its_rules_have_its_number(container: str, limit: int) -> None:
    policy = Policy(container, limit)

    assert policy_of(policy.chain) == policy
    assert len(policy.chain) < 32
    assert all(re.search(rf"\b{limit}\b", rule) and f"@{policy.chain}_" in rule for rule in policy_rules(policy))


@pytest.mark.parametrize("name", ["known", "client_rate", "client_rate_", "client_rate_x", "other_7", "rate_7"])
def test_other_chains_are_no_policies(name: str) -> None:
    assert policy_of(name) is None


def test_a_batch_makes_each_chain_once_before_the_elements_that_name_it() -> None:
    elements = tuple(Element("client_rate", (f"0x6b00000{n}",), ("7",)) for n in (1, 2))

    text = script((AddElements(elements),), "kk")

    assert text.count("add chain inet kk client_rate_7\n") == 1
    assert text.index("add rule inet kk client_rate_7") < text.index("add element inet kk client_rate ")
    assert "0x6b000001 : jump client_rate_7, 0x6b000002 : jump client_rate_7" in text


def test_statements_and_removals_are_written_as_nft_reads_them() -> None:
    rate = (Element("rate", (MARK,), ("7",)),)

    assert script((AddElements(rate),), "kk") == (
        f"add element inet kk rate {{ {MARK} limit rate over 7/second burst 7 packets }}\n"
    )
    assert script((RemovePolicies((Policy("client_rate", 7),)),), "kk").splitlines()[-2:] == [
        "delete set inet kk client_rate_7_4",
        "delete set inet kk client_rate_7_6",
    ]


def test_a_guard_of_zero_is_no_rule() -> None:
    assert len(guard_chain(GUARDS).rules) == 4
    assert guard_chain(Guards(rate=0, connections=0)).rules == ()
    with pytest.raises(ValueError, match="guard rate -1"):
        Guards(rate=-1)


counts = st.sampled_from([0, 0, 1, 7, 1000])
services = st.builds(
    lambda number, limits, carried: replace(
        SERVICE, number=number, ports=Ports.of(5000 + number), limits=limits, carried=carried
    ),
    st.integers(1, 4),
    st.builds(
        Limits,
        rate=counts,
        rate_per_client=counts,
        connections=counts,
        connections_per_client=counts,
        bandwidth=counts,
    ),
    st.sampled_from([frozenset(), frozenset({6}), frozenset({4, 6})]),
)


@given(st.lists(services, max_size=4), st.lists(services | st.integers(1, 4), max_size=6))
async def test_any_change_of_limits_leads_where_a_fresh_table_would_be(
    before: list[L4Service], changes: list[L4Service | int]
) -> None:
    table = MemoryTable()
    reconciler = Reconciler(table)
    held = {service.number: service for service in before}
    await reconciler.full(gateway_desired(GatewayTable("wg", 7, services=held)))
    for change in changes:
        if isinstance(change, int):
            held.pop(change, None)
            await reconciler.change({change: frozenset()})
        else:
            held[change.number] = change
            await reconciler.change({change.number: gateway_elements(change)})
    whole = gateway_desired(GatewayTable("wg", 7, services=held))

    report = await reconciler.full(whole)

    wanted = {e.place: e.data for elements in whole.items.values() for e in elements}
    assert (report.changed, table.elements) == (0, wanted)
    named = {Policy(name, int(data[0])) for (name, _), data in wanted.items() if name.startswith("client_")}
    assert table.policies == named
