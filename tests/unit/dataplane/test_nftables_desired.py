"""What gateways and agents want, and what cannot be expressed."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from kakuremichi.dataplane.nftables.agent import AgentTable, Target, agent_desired, agent_elements
from kakuremichi.dataplane.nftables.elements import TABLE_WIDE, Element, ItemRefusedError, Ports, owner_of
from kakuremichi.dataplane.nftables.gateway import GatewayTable, L4Service, gateway_desired, gateway_elements
from kakuremichi.dataplane.nftables.marks import mark_of, number_of, target_number

SERVICE = L4Service(number=1, proto="tcp", ports=Ports.of(5432), agent_port=20001, target=IPv4Address("10.1.0.100"))
AGENT = AgentTable("wg0", IPv4Address("10.1.0.100"), frozenset({ip_address("10.1.0.7")}))
AGENT6 = replace(AGENT, address6=IPv6Address("fd00::100"))


def test_an_open_service_needs_six_elements() -> None:
    assert gateway_elements(SERVICE) == {
        Element("ports", ("ipv4", "tcp", "5432"), ("0x6b000001",)),
        Element("to4", ("0x6b000001",), ("10.1.0.100", "20001")),
        Element("open", ("0x6b000001",)),
        Element("used", ("0x6b000001",)),
        Element("opened", ("0x6b000001",)),
        Element("returned", ("0x6b000001",)),
    }


def test_a_range_goes_to_the_address_and_keeps_its_ports() -> None:
    ranged = replace(SERVICE, ports=Ports.of(30000, 30009), agent_port=30000, target6=IPv6Address("fd00::100"))

    elements = gateway_elements(ranged)

    assert Element("ranges", ("ipv4", "tcp", "30000-30009"), ("0x6b000001",)) in elements
    assert Element("ranges", ("ipv6", "tcp", "30000-30009"), ("0x6b000001",)) in elements
    assert Element("range4", ("0x6b000001",), ("10.1.0.100",)) in elements
    assert Element("range6", ("0x6b000001",), ("fd00::100",)) in elements


def test_overlapping_sources_become_their_fewest_networks() -> None:
    sources = frozenset(
        map(ip_network, ("10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/25", "192.0.2.128/25", "2001:db8::/33", "2001:db8::1"))
    )

    allowed = {e.container + " " + e.key[1] for e in gateway_elements(replace(SERVICE, sources=sources)) if e.key[1:]}

    assert allowed - {"ports tcp"} == {"allow4 10.0.0.0/8", "allow4 192.0.2.0/24", "allow6 2001:db8::/33"}


def test_an_empty_allow_list_admits_nobody() -> None:
    containers = {element.container for element in gateway_elements(replace(SERVICE, sources=frozenset()))}

    assert containers.isdisjoint({"open", "allow4", "allow6"})


def test_a_service_without_a_target_has_no_elements() -> None:
    assert gateway_elements(replace(SERVICE, target=None)) == frozenset()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"number": 0}, "numbers go from 1"),
        ({"number": 0x800000}, "numbers go from 1"),
        ({"ports": Ports.of(0)}, "ports 0 are not within"),
        ({"ports": Ports.of(9, 8)}, "ports 9-8 are not within"),
        ({"ports": Ports.of(65000, 65536)}, "ports 65000-65536 are not within"),
        ({"ports": Ports.of(30000, 30009)}, "a range keeps its numbers"),
        ({"agent_port": 0}, "agent: ports 0 are not within"),
        ({"target": IPv4Address("127.0.0.1")}, "no agent's address"),
        ({"target": IPv4Address("0.0.0.0")}, "no agent's address"),  # noqa: S104  # refused, not bound
        ({"target": IPv4Address("224.0.0.1")}, "no agent's address"),
        ({"target6": IPv6Address("::ffff:10.0.0.1")}, "no agent's address"),
    ],
)
def test_a_service_that_cannot_be_is_refused_with_a_sentence(change: dict[str, object], sentence: str) -> None:
    bad = replace(SERVICE, **change)  # type: ignore[arg-type]

    with pytest.raises(ItemRefusedError, match=sentence):
        gateway_elements(bad)
    desired = gateway_desired(GatewayTable("wg0", 7, services={bad.number: bad, 2: replace(SERVICE, number=2)}))

    assert [refusal.owner for refusal in desired.refused] == [bad.number]
    assert 2 in desired.items


def test_doors_and_guarded_ports_belong_to_the_table_as_a_whole() -> None:
    desired = gateway_desired(GatewayTable("wg0", 7, {80: 8080}, frozenset({("tcp", 8080)})))

    assert desired.items == {
        TABLE_WIDE: {Element("doors", ("80",), ("8080",)), Element("guarded", ("tcp", "8080"))},
    }


def test_an_agents_marks_never_meet_a_gateways() -> None:
    numbers = {target_number("tcp", 20000), target_number("udp", 20000), target_number("tcp", 65535)}

    assert len(numbers) == 3
    assert all(0x6B800000 <= mark_of(number) <= 0x6BFFFFFF for number in numbers)
    assert {number_of(mark_of(number)) for number in numbers} == numbers


def test_an_agents_elements_are_owned_by_its_targets_numbers() -> None:
    targets = {
        ("tcp", Ports.of(20001)): Target(ip_address("127.0.0.1"), 5432),
        ("udp", Ports.of(30000, 30009)): Target(ip_address("192.168.7.20"), 30000),
    }
    desired = agent_desired(replace(AGENT, targets=targets, own=frozenset({("tcp", 9000)})))  # type: ignore[arg-type]

    assert {owner_of(e) for elements in desired.items.values() for e in elements} == set(desired.items)
    assert Element("to4", ("0x6b804e21",), ("127.0.0.1", "5432")) in desired.items[target_number("tcp", 20001)]
    assert Element("range4", ("0x6b817530",), ("192.168.7.20",)) in desired.items[target_number("udp", 30000)]
    assert desired.items[TABLE_WIDE] == {Element("gateways4", ("10.1.0.7",)), Element("own", ("tcp", "9000"))}


@pytest.mark.parametrize(
    ("address", "port", "ports", "sentence"),
    [
        ("fe80::1", 80, Ports.of(20001), "link-local"),
        ("fd00::100", 80, Ports.of(20001), "own address in the tunnel"),
        ("10.1.0.100", 80, Ports.of(20001), "own address in the tunnel"),
        ("0.0.0.0", 80, Ports.of(20001), "no address of a service"),  # noqa: S104  # refused, not bound
        ("255.255.255.255", 80, Ports.of(20001), "no address of a service"),
        ("ff02::1", 80, Ports.of(20001), "no address of a service"),
        ("192.168.7.20", 0, Ports.of(20001), "private: ports 0"),
        ("192.168.7.20", 80, Ports.of(0), "ports 0"),
        ("192.168.7.20", 80, Ports.of(20001, 20002), "a range keeps its numbers"),
    ],
)
def test_a_target_that_cannot_be_is_refused_with_a_sentence(
    address: str, port: int, ports: Ports, sentence: str
) -> None:
    with pytest.raises(ItemRefusedError, match=sentence):
        agent_elements(AGENT6, "tcp", ports, Target(ip_address(address), port))


@pytest.mark.parametrize("address", ["fd00:9::1", "::1"])
def test_an_ipv6_target_needs_an_ipv6_address_in_the_tunnel(address: str) -> None:
    target = Target(ip_address(address), 80)

    with pytest.raises(ItemRefusedError, match="the agent's host has no IPv6"):
        agent_elements(AGENT, "tcp", Ports.of(20001), target)
    assert Element("to6", ("0x6b804e21",), (address, "80")) in agent_elements(AGENT6, "tcp", Ports.of(20001), target)
