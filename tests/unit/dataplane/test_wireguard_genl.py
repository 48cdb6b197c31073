"""WireGuard's netlink bytes, with pyroute2's independent reading of them as the witness."""

from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.generic.wireguard import WGPEER_F_REMOVE_ME, WGPEER_F_REPLACE_ALLOWEDIPS, wgmsg

from kakuremichi.dataplane.links.netlink import NetlinkError, attribute, nested
from kakuremichi.dataplane.wireguard.desired import Peer
from kakuremichi.dataplane.wireguard.diff import PeerState, RemovePeer, SetPeer
from kakuremichi.dataplane.wireguard.genl import DeviceDump, configure_request, set_requests
from kakuremichi.model.addresses import parse_endpoint
from kakuremichi.model.keys import PrivateKey, PublicKey, key_text

FAMILY = 31
KEY = PublicKey(bytes(range(32)))

keys = st.binary(min_size=32, max_size=32).map(PublicKey)
networks = st.integers(0, 2**32 - 1).map(lambda number: IPv4Network((number, 32))) | st.integers(0, 2**128 - 1).map(
    lambda number: IPv6Network((number, 128))
)
endpoints = st.none() | st.sampled_from(["192.0.2.1:1", "[2001:db8::1]:65535"]).map(parse_endpoint)
peers = st.builds(Peer, keys, st.frozensets(networks, max_size=4), endpoints, st.integers(0, 65535))


def decoded(body: bytes) -> wgmsg:
    message = wgmsg((16 + len(body)).to_bytes(4, "little") + bytes(12) + body)
    message.decode()
    return message


def dump_of(*bodies: bytes) -> DeviceDump:
    dump = DeviceDump()
    for body in bodies:
        dump.add(memoryview(body))
    return dump


def test_pyroute2_reads_a_peer_as_we_wrote_it() -> None:
    peer = Peer(KEY, frozenset({ip_network("10.1.0.100/32")}), parse_endpoint("[2001:db8::1]:51820"), 25)

    (request,) = set_requests(FAMILY, "wg0", [SetPeer(peer), RemovePeer(KEY)])

    message = decoded(request.body)
    assert message.get_attr("WGDEVICE_A_IFNAME") == "wg0"
    first, second = message.get_attr("WGDEVICE_A_PEERS")
    assert first.get_attr("WGPEER_A_PUBLIC_KEY") == key_text(KEY).encode()
    assert first.get_attr("WGPEER_A_FLAGS") == WGPEER_F_REPLACE_ALLOWEDIPS
    endpoint = first.get_attr("WGPEER_A_ENDPOINT")
    assert (endpoint["addr"], endpoint["port"]) == ("2001:db8::1", 51820)
    assert first.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") == 25
    (allowed,) = first.get_attr("WGPEER_A_ALLOWEDIPS")
    assert allowed["addr"] == "10.1.0.100/32"
    assert second.get_attr("WGPEER_A_FLAGS") == WGPEER_F_REMOVE_ME


def test_pyroute2_reads_the_key_and_the_port() -> None:
    private_key = PrivateKey.generate()

    message = decoded(configure_request(FAMILY, "wg0", private_key, 51820).body)

    assert message.get_attr("WGDEVICE_A_PRIVATE_KEY") == key_text(private_key.reveal()).encode()
    assert message.get_attr("WGDEVICE_A_LISTEN_PORT") == 51820
    same_port = decoded(configure_request(FAMILY, "wg0", private_key, None).body)
    assert same_port.get_attr("WGDEVICE_A_LISTEN_PORT") is None


@given(st.lists(peers, max_size=5, unique_by=lambda peer: peer.public_key))
def test_what_is_written_is_read_back(written: list[Peer]) -> None:
    requests = set_requests(FAMILY, "wg0", [SetPeer(peer) for peer in written])

    dump = dump_of(*(request.body for request in requests))

    assert dump.peers == {peer.public_key: PeerState(peer) for peer in written}


def test_no_attribute_outgrows_its_length_field() -> None:
    many = frozenset(IPv6Network((number, 128)) for number in range(4000))
    steps = [SetPeer(Peer(PublicKey(bytes([number]) * 32), many)) for number in range(3)]

    requests = set_requests(FAMILY, "wg0", steps)

    assert len(requests) > 3
    assert all(len(request.body) < 65536 for request in requests)
    assert {len(state.peer.allowed_ips) for state in dump_of(*(r.body for r in requests)).peers.values()} == {4000}


def test_the_private_key_of_a_dump_is_passed_over() -> None:
    secret = b"\x42" * 32
    body = bytes([0, 1, 0, 0]) + attribute(3, secret) + attribute(4, KEY) + attribute(6, (7).to_bytes(2, "little"))

    dump = dump_of(body)

    assert (dump.public_key, dump.listen_port) == (KEY, 7)
    assert all(secret not in repr(value).encode() and value != secret for value in vars(dump).values())


def test_a_device_without_key_tells_none() -> None:
    assert dump_of(bytes([0, 1, 0, 0]) + attribute(4, bytes(32))).public_key is None


def test_a_cut_off_message_is_an_error() -> None:
    body = bytes([0, 1, 0, 0]) + nested(8, nested(0, attribute(1, KEY)))

    with pytest.raises(NetlinkError, match="attribute of"):
        dump_of(body[:-10])
