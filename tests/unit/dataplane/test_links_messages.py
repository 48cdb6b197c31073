"""rtnetlink bytes, with pyroute2's independent reading of them as the witness."""

from ipaddress import ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from kakuremichi.dataplane.links import messages
from kakuremichi.dataplane.links.diff import AddAddress, AddRoute, RemoveAddress, RemoveRoute
from kakuremichi.dataplane.links.messages import RouteRow, parse_address, parse_route, request_for
from kakuremichi.dataplane.links.netlink import NetlinkError, attribute, attributes
from kakuremichi.dataplane.links.networks import _without_contained
from kakuremichi.model.addresses import IPNetwork

INDEX = 7


def decoded(kind: type, body: bytes) -> dict[str, object]:
    data = (16 + len(body)).to_bytes(4, "little") + bytes(12) + body
    message = kind(data)
    message.decode()
    return {**{name: message[name] for name, *_ in kind.fields}, **dict(message["attrs"])}  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["10.1.2.0/24", "fd00:1::/64"])
def test_pyroute2_reads_a_route_as_we_wrote_it(text: str) -> None:
    network = ip_network(text)

    told = decoded(rtmsg, request_for(AddRoute(network), INDEX).body)

    assert told["RTA_DST"] == str(network.network_address)
    assert (told["dst_len"], told["RTA_OIF"], told["table"], told["proto"]) == (network.prefixlen, INDEX, 254, 107)
    assert (told["type"], told["scope"]) == (1, 253 if network.version == 4 else 0)


@pytest.mark.parametrize("text", ["10.1.2.100/24", "fd00:1::100/64"])
def test_pyroute2_reads_an_address_as_we_wrote_it(text: str) -> None:
    address = ip_interface(text)

    told = decoded(ifaddrmsg, request_for(AddAddress(address), INDEX).body)

    assert (told["IFA_ADDRESS"], told["IFA_LOCAL"]) == (str(address.ip), str(address.ip))
    assert (told["prefixlen"], told["index"], told["scope"]) == (address.network.prefixlen, INDEX, 0)


@pytest.mark.parametrize("text", ["10.1.2.0/24", "fd00:1::/64", "0.0.0.0/0", "::/0"])
def test_a_route_is_read_as_it_was_written(text: str) -> None:
    network = ip_network(text)

    body = request_for(AddRoute(network), INDEX).body

    assert parse_route(memoryview(body)) == RouteRow(network, INDEX, 107, 254, 1)


@pytest.mark.parametrize("text", ["10.1.2.100/24", "fd00:1::100/64"])
def test_an_address_is_read_as_it_was_written(text: str) -> None:
    row = parse_address(memoryview(request_for(RemoveAddress(ip_interface(text)), INDEX).body))

    assert row is not None
    assert (row.address, row.index) == (ip_interface(text), INDEX)


def test_removing_a_route_names_what_makes_it_ours() -> None:
    request = request_for(RemoveRoute(ip_network("10.1.2.0/24")), INDEX)

    row = parse_route(memoryview(request.body))

    assert request.kind == messages.RTM_DELROUTE
    assert row == RouteRow(ip_network("10.1.2.0/24"), INDEX, 107, 254, 0)


def test_other_families_are_passed_over() -> None:
    assert parse_route(memoryview(bytes([128]) + bytes(11))) is None
    assert parse_address(memoryview(bytes([7]) + bytes(7))) is None


@given(st.binary(max_size=64))
def test_attributes_of_any_bytes_end_in_pairs_or_an_error(data: bytes) -> None:
    try:
        found = list(attributes(memoryview(data)))
    except NetlinkError:
        return
    assert sum(4 + len(payload) for _, payload in found) <= len(data)


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=20))))
def test_attributes_are_read_as_they_were_packed(pairs: list[tuple[int, bytes]]) -> None:
    data = b"".join(attribute(kind, payload) for kind, payload in pairs)

    assert [(kind, bytes(payload)) for kind, payload in attributes(memoryview(data))] == pairs


def test_a_network_inside_another_is_left_out() -> None:
    texts = [
        "10.0.0.0/8",
        "10.1.0.0/16",
        "192.168.1.0/24",
        "192.168.1.128/25",
        "fd00::/8",
        "fd00:1::/64",
        "2001:db8::/32",
    ]
    given_networks: list[IPNetwork] = [ip_network(text) for text in reversed(texts)]

    assert [str(network) for network in _without_contained(given_networks)] == [
        "10.0.0.0/8",
        "192.168.1.0/24",
        "2001:db8::/32",
        "fd00::/8",
    ]
