"""WireGuard's generic netlink messages as bytes (linux/wireguard.h). Pure.

An attribute holds at most 64 KiB, so peers are packed into as many messages as they need, and a peer with thousands of
allowed IPs into several parts, of which all but the first add to it. The kernel splits its dumps in the same way.
"""

import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from kakuremichi.dataplane.links.netlink import Request, attribute, attributes, nested
from kakuremichi.dataplane.wireguard.desired import Peer
from kakuremichi.dataplane.wireguard.diff import PeerState, RemovePeer, SetPeer, Step
from kakuremichi.model.addresses import Endpoint, IPNetwork
from kakuremichi.model.keys import PrivateKey, PublicKey

_GET_DEVICE, _SET_DEVICE, _VERSION = 0, 1, 1
_A_IFNAME, _A_PRIVATE_KEY, _A_PUBLIC_KEY, _A_LISTEN_PORT, _A_PEERS = 2, 3, 4, 6, 8
_P_PUBLIC_KEY, _P_FLAGS, _P_ENDPOINT, _P_KEEPALIVE = 1, 3, 4, 5
_P_HANDSHAKE, _P_RX_BYTES, _P_TX_BYTES, _P_ALLOWED_IPS = 6, 7, 8, 9
_IP_FAMILY, _IP_ADDRESS, _IP_PREFIX = 1, 2, 3
_REMOVE_ME, _REPLACE_ALLOWED_IPS = 1, 2

_HEADER = struct.Struct("=BBH")
_U16, _U32, _U64, _TIMESPEC = struct.Struct("=H"), struct.Struct("=I"), struct.Struct("=Q"), struct.Struct("=qq")
_ENDPOINT_4, _ENDPOINT_6 = struct.Struct("=H2s4s8x"), struct.Struct("=H2s4x16s4x")
_PART_IPS = 700  # 40 bytes each for IPv6
_MESSAGE_BYTES = 60000


def get_body(name: str) -> bytes:
    return _HEADER.pack(_GET_DEVICE, _VERSION, 0) + _name(name)


def configure_request(family: int, name: str, private_key: PrivateKey, listen_port: int | None) -> Request:
    key = attribute(_A_PRIVATE_KEY, private_key.reveal())
    port = b"" if listen_port is None else attribute(_A_LISTEN_PORT, _U16.pack(listen_port))
    return _set(family, name, key + port)


def set_requests(family: int, name: str, steps: Iterable[Step]) -> list[Request]:
    """As few messages as hold the steps, in their order."""
    messages: list[list[bytes]] = [[]]
    size = 0
    for part in (part for step in steps for part in _parts(step)):
        if size + len(part) > _MESSAGE_BYTES:
            messages.append([])
            size = 0
        messages[-1].append(part)
        size += len(part)
    return [_set(family, name, nested(_A_PEERS, b"".join(parts))) for parts in messages if parts]


def _set(family: int, name: str, body: bytes) -> Request:
    return Request(family, 0, _HEADER.pack(_SET_DEVICE, _VERSION, 0) + _name(name) + body)


def _name(name: str) -> bytes:
    return attribute(_A_IFNAME, name.encode() + b"\0")


def _parts(step: Step) -> Iterator[bytes]:
    match step:
        case RemovePeer(key):
            yield nested(0, attribute(_P_PUBLIC_KEY, key) + attribute(_P_FLAGS, _U32.pack(_REMOVE_ME)))
        case SetPeer(peer):
            key_part = attribute(_P_PUBLIC_KEY, peer.public_key)
            ips = [_allowed_ip(network) for network in peer.allowed_ips]
            yield nested(0, key_part + _settings(peer) + _ips(ips[:_PART_IPS]))
            for start in range(_PART_IPS, len(ips), _PART_IPS):
                yield nested(0, key_part + _ips(ips[start : start + _PART_IPS]))


def _settings(peer: Peer) -> bytes:
    flags = attribute(_P_FLAGS, _U32.pack(_REPLACE_ALLOWED_IPS))
    endpoint = attribute(_P_ENDPOINT, _endpoint(peer.endpoint)) if peer.endpoint else b""
    return flags + endpoint + attribute(_P_KEEPALIVE, _U16.pack(peer.keepalive_s))


def _ips(packed: Sequence[bytes]) -> bytes:
    return nested(_P_ALLOWED_IPS, b"".join(packed))


def _allowed_ip(network: IPNetwork) -> bytes:
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    address = attribute(_IP_ADDRESS, network.network_address.packed)
    prefix = attribute(_IP_PREFIX, bytes([network.prefixlen]))
    return nested(0, attribute(_IP_FAMILY, _U16.pack(family)) + address + prefix)


def _endpoint(endpoint: Endpoint) -> bytes:
    port = endpoint.port.to_bytes(2, "big")
    if endpoint.address.version == 4:
        return _ENDPOINT_4.pack(socket.AF_INET, port, endpoint.address.packed)
    return _ENDPOINT_6.pack(socket.AF_INET6, port, endpoint.address.packed)


class DeviceDump:
    """The messages of one dump put together. The private key that the kernel sends along is passed over."""

    def __init__(self) -> None:
        self.public_key: PublicKey | None = None
        self.listen_port = 0
        self.peers: dict[PublicKey, PeerState] = {}

    def add(self, body: memoryview) -> None:
        for kind, payload in attributes(body, _HEADER.size):
            if kind == _A_PUBLIC_KEY:
                self.public_key = PublicKey(bytes(payload)) if any(payload) else None
            elif kind == _A_LISTEN_PORT:
                (self.listen_port,) = _U16.unpack(payload)
            elif kind == _A_PEERS:
                for _, peer in attributes(payload):
                    self._add_peer(_peer_state(peer))

    def _add_peer(self, state: PeerState) -> None:
        key = state.peer.public_key
        if (before := self.peers.get(key)) is not None:
            # The rest of a peer whose allowed IPs did not fit: only its key comes again.
            ips = before.peer.allowed_ips | state.peer.allowed_ips
            state = replace(before, peer=replace(before.peer, allowed_ips=ips))
        self.peers[key] = state


def _peer_state(body: memoryview) -> PeerState:
    found = dict(attributes(body))
    seconds, nanoseconds = _TIMESPEC.unpack(found[_P_HANDSHAKE]) if _P_HANDSHAKE in found else (0, 0)
    peer = Peer(
        PublicKey(bytes(found[_P_PUBLIC_KEY])),
        frozenset(_parse_ips(found[_P_ALLOWED_IPS])) if _P_ALLOWED_IPS in found else frozenset(),
        _parse_endpoint(found[_P_ENDPOINT]) if _P_ENDPOINT in found else None,
        _U16.unpack(found[_P_KEEPALIVE])[0] if _P_KEEPALIVE in found else 0,
    )
    rx_bytes = _U64.unpack(found[_P_RX_BYTES])[0] if _P_RX_BYTES in found else 0
    tx_bytes = _U64.unpack(found[_P_TX_BYTES])[0] if _P_TX_BYTES in found else 0
    return PeerState(peer, seconds + nanoseconds / 1e9 or None, rx_bytes, tx_bytes)


def _parse_ips(body: memoryview) -> Iterator[IPNetwork]:
    for _, one in attributes(body):
        found = dict(attributes(one))
        packed, prefix = bytes(found[_IP_ADDRESS]), found[_IP_PREFIX][0]
        yield IPv4Network((packed, prefix)) if len(packed) == 4 else IPv6Network((packed, prefix))


def _parse_endpoint(payload: memoryview) -> Endpoint:
    (family,) = _U16.unpack_from(payload)
    if family == socket.AF_INET:
        _, port, address = _ENDPOINT_4.unpack(payload)
        return Endpoint(IPv4Address(address), int.from_bytes(port, "big"))
    _, port, address = _ENDPOINT_6.unpack(payload)
    return Endpoint(IPv6Address(address), int.from_bytes(port, "big"))
