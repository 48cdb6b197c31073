"""An agent speaks to certified gateways only and publishes only what its site permits."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

import pytest

from kakuremichi.model.addresses import parse_address
from kakuremichi.wire.records import Revocation
from kakuremichi_agent.allow import AllowFileError, NotAllowedError, default_allow, read_allow
from kakuremichi_agent.model import AgentModel
from support.feedmaker import verifier
from support.people import MAIN, Person, target_record

TUNNEL = ip_network("10.9.0.0/24")
TUNNEL6 = IPv6Network("fd00:1::/96")
LAN = ip_network("192.168.2.0/24")
GW1 = Person("gw1", role="gateway", slot=1, endpoint="203.0.113.1:51820")


@pytest.fixture
def model() -> AgentModel:
    return AgentModel(verifier(), MAIN, TUNNEL, default_allow([LAN], TUNNEL))  # type: ignore[arg-type]


def test_a_gateway_gets_the_address_of_its_slot_in_this_agents_subnet(model: AgentModel) -> None:
    dirty = model.take([(("gateway-peer", "gw1"), GW1.gateway_peer())])

    assert not dirty.errors
    facts = model.gateways[GW1.node_id]
    assert facts.address == IPv4Address("10.9.0.1")
    assert str(facts.endpoint) == "203.0.113.1:51820"


def test_two_gateways_never_share_a_slot(model: AgentModel) -> None:
    twin = Person("gw9", role="gateway", slot=1)
    model.take([(("gateway-peer", "gw1"), GW1.gateway_peer())])

    dirty = model.take([(("gateway-peer", "gw9"), twin.gateway_peer())])

    assert "slot or key is that of gw1" in dirty.errors["gateway-peer", "gw9"]
    assert set(model.gateways) == {GW1.node_id}


def test_an_agents_certificate_makes_no_gateway(model: AgentModel) -> None:
    dirty = model.take([(("gateway-peer", "site-b"), Person("site-b").gateway_peer())])

    assert "role agent, gateway is needed" in dirty.errors["gateway-peer", "site-b"]


@pytest.mark.parametrize("address", ["127.0.0.1", "192.168.2.130"])
def test_loopback_and_the_networks_of_the_interfaces_may_be_published_by_default(
    model: AgentModel, address: str
) -> None:
    assert not model.take([(("target", "t"), target_record("t", address=address))]).errors
    assert model.targets["t"].address == parse_address(address)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("169.254.169.254", "never published"),
        ("10.9.0.1", "inside the tunnel"),
        ("192.168.3.1", "allow file does not permit"),
        ("8.8.8.8", "allow file does not permit"),
        ("224.0.0.1", "never published"),
        ("0.0.0.0", "never published"),  # noqa: S104  # the refused input
        ("not-an-address", "not an IPv4 or IPv6 address"),
    ],
)
def test_nothing_else_is_whoever_signed_it(model: AgentModel, address: str, reason: str) -> None:
    model.take([(("target", "t"), target_record("t"))])

    dirty = model.take([(("target", "t"), target_record("t", address=address))])

    assert reason in dirty.errors["target", "t"]
    assert not model.targets  # not even what was published before under that name


def test_the_allow_file_narrows_by_network_port_and_protocol() -> None:
    allow = read_allow("# the wiki\n192.168.2.130/32 80-81 tcp\n", TUNNEL)

    allow.check("t", "tcp", parse_address("192.168.2.130"), 81)
    for proto, address, port in [
        ("udp", "192.168.2.130", 80),
        ("tcp", "192.168.2.130", 82),
        ("tcp", "127.0.0.1", 80),
    ]:
        with pytest.raises(NotAllowedError, match=f"{address} port {port}/{proto}"):
            allow.check("t", proto, parse_address(address), port)


def test_every_fault_of_an_allow_file_is_named_with_its_line() -> None:
    with pytest.raises(AllowFileError, match=r"line 1: .*host bits.*line 3: ports 9-8"):
        read_allow("10.0.0.1/24\n\n10.0.0.0/24 9-8\n", TUNNEL)


def test_a_gateway_that_is_revoked_or_gone_is_cut_where_it_was(model: AgentModel) -> None:
    other = Person("gw2", role="gateway", slot=2, endpoint="203.0.113.2:51820")
    model.take([(("gateway-peer", "gw1"), GW1.gateway_peer()), (("gateway-peer", "gw2"), other.gateway_peer())])

    revoked = model.take([(("revocation", "gw1"), Revocation(node_id=GW1.node_id, epoch=1))])
    gone = model.take([(("gateway-peer", "gw2"), None)])

    assert revoked.cut == {GW1.node_id: (IPv4Address("10.9.0.1"),)}
    assert gone.cut == {other.node_id: (IPv4Address("10.9.0.2"),)}
    assert not model.gateways


def test_a_gateway_has_an_ipv6_address_beside_its_own_and_is_cut_at_both(model: AgentModel) -> None:
    model.tunnel6 = TUNNEL6
    model.take([(("gateway-peer", "gw1"), GW1.gateway_peer())])

    gone = model.take([(("gateway-peer", "gw1"), None)])

    assert gone.cut == {GW1.node_id: (IPv4Address("10.9.0.1"), IPv6Address("fd00:1::10.9.0.1"))}


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("fe80::1", "never published"),
        ("ff02::1", "never published"),
        ("fd00:ec2::254", "never published"),
        ("fd00:1::10.9.0.1", "inside the tunnel"),
        ("fd00:1::10.77.0.100", "inside the tunnel"),
        ("2001:db8::1", "does not permit 2001:db8::1 port 80/tcp"),
    ],
)
def test_the_sites_word_counts_for_ipv6_too(model: AgentModel, address: str, reason: str) -> None:
    model.allow = default_allow([LAN, ip_network("fd00::/8")], TUNNEL, TUNNEL6)

    assert reason in model.take([(("target", "t"), target_record("t", address=address))]).errors["target", "t"]
    for allowed in ("::1", "fd00:2::1"):
        assert not model.take([(("target", "t"), target_record("t", address=allowed))]).errors


def test_a_line_of_the_allow_file_may_name_an_ipv6_network(model: AgentModel) -> None:
    model.allow = read_allow("2001:db8:5::/48 80 tcp\n", TUNNEL, TUNNEL6)

    assert not model.take([(("target", "t"), target_record("t", address="2001:db8:5::1"))]).errors
    for address, port in (("2001:db8:5::1", 81), ("2001:db8:6::1", 80), ("::1", 80)):
        assert model.take([(("target", "t"), target_record("t", port, address))]).errors
