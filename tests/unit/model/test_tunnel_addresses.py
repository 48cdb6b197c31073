"""The IPv6 addresses beside those of the tunnel."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.model.addresses import host_network, tunnel_address6, tunnel_network6

DEPLOYMENT = bytes(range(16))


def test_the_network_of_a_deployment_never_changes() -> None:
    # Nodes of two releases have to agree on it, as nothing tells it.
    assert tunnel_network6(DEPLOYMENT) == IPv6Network("fd92:c809:b230::/96")


@given(st.binary(min_size=16, max_size=16), st.ip_addresses(v=4))
def test_an_address_has_its_own_32_bits_in_a_ula_of_the_deployment(deployment: bytes, address: IPv4Address) -> None:
    network = tunnel_network6(deployment)

    beside = tunnel_address6(network, address)

    assert network.subnet_of(IPv6Network("fd00::/8"))
    assert beside in network
    assert beside.packed[12:] == address.packed


def test_the_network_of_one_address_holds_it_alone() -> None:
    assert str(host_network(IPv4Address("10.1.0.100"))) == "10.1.0.100/32"
    assert str(host_network(IPv6Address("fd00::1"))) == "fd00::1/128"
