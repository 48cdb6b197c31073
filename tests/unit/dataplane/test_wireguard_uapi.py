"""The text protocol of wireguard-go: what we write, what we read, what happens when the daemon misbehaves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.dataplane.wireguard import uapi
from kakuremichi.dataplane.wireguard.desired import Peer
from kakuremichi.dataplane.wireguard.device import DeviceError
from kakuremichi.dataplane.wireguard.diff import PeerState, RemovePeer, SetPeer
from kakuremichi.dataplane.wireguard.userspace import UserspaceDevice
from kakuremichi.model.addresses import parse_endpoint
from kakuremichi.model.keys import PrivateKey, PublicKey

KEY = PublicKey(bytes(range(32)))
HEX = KEY.hex()

keys = st.binary(min_size=32, max_size=32).map(PublicKey)
networks = st.integers(0, 2**32 - 1).map(lambda number: IPv4Network((number, 32)))
endpoints = st.none() | st.sampled_from(["192.0.2.1:1", "[2001:db8::1]:65535"]).map(parse_endpoint)
peers = st.builds(Peer, keys, st.frozensets(networks, max_size=4), endpoints, st.integers(0, 65535))


def test_a_peer_is_written_as_the_protocol_says() -> None:
    peer = Peer(KEY, frozenset({IPv4Network("10.1.0.100/32"), IPv6Network("fd00::100/128")}), None, 25)

    request = uapi.set_request([RemovePeer(KEY), SetPeer(peer)])

    assert request.decode().splitlines() == [
        "set=1",
        f"public_key={HEX}",
        "remove=true",
        f"public_key={HEX}",
        "persistent_keepalive_interval=25",
        "replace_allowed_ips=true",
        "allowed_ip=10.1.0.100/32",
        "allowed_ip=fd00::100/128",
        "",
    ]


@given(st.lists(peers, max_size=5, unique_by=lambda peer: peer.public_key))
def test_what_is_written_is_read_back(written: list[Peer]) -> None:
    lines = uapi.set_request([SetPeer(peer) for peer in written]).decode().splitlines()[1:-1]

    head, groups = uapi.device_lines(lines)

    assert head == {}
    assert [uapi.peer_state(group) for group in groups] == [PeerState(peer) for peer in written]


def test_the_state_of_a_peer_is_read() -> None:
    lines = [
        f"public_key={HEX}",
        "preshared_key=" + "0" * 64,
        "protocol_version=1",
        "endpoint=192.0.2.1:51820",
        "last_handshake_time_sec=1700000000",
        "last_handshake_time_nsec=500000000",
        "tx_bytes=10",
        "rx_bytes=20",
        "persistent_keepalive_interval=25",
        "allowed_ip=10.1.0.100/32",
        "something_new=1",
    ]

    peer = Peer(KEY, frozenset({IPv4Network("10.1.0.100/32")}), parse_endpoint("192.0.2.1:51820"), 25)
    assert uapi.peer_state(lines) == PeerState(peer, 1700000000.5, 20, 10)


def test_an_endpoint_with_a_zone_counts_as_none() -> None:
    assert uapi.peer_state([f"public_key={HEX}", "endpoint=[fe80::1%eth0]:51820"]).peer.endpoint is None


def test_the_private_key_is_split_off_unread() -> None:
    private_key = PrivateKey.generate()
    answer = uapi.configure_request(private_key, 51820).removeprefix(b"set=1\n") + b"errno=0\n\n"

    has_key, lines = uapi.split_answer(answer)

    assert has_key
    assert private_key.reveal().hex() not in "\n".join(lines)
    assert uapi.device_lines(lines)[0]["listen_port"] == "51820"


@asynccontextmanager
async def daemon(folder: Path, answer: Callable[[bytes], bytes]) -> AsyncIterator[UserspaceDevice]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(await reader.readuntil(b"\n\n")))
        writer.close()

    async with await asyncio.start_unix_server(serve, folder / "wg7.sock"):
        yield UserspaceDevice("wg7", folder)


class TestDaemon:
    async def test_a_refused_peer_is_found_among_the_others(self, run_dir: Path) -> None:
        bad = PublicKey(bytes(31) + b"\x07")

        def answer(request: bytes) -> bytes:
            return b"errno=-22\n\n" if bad.hex().encode() in request else b"errno=0\n\n"

        async with daemon(run_dir, answer) as device:
            steps = [RemovePeer(KEY), RemovePeer(bad), RemovePeer(KEY)]
            outcomes = await device.apply(steps)

        told = "interface wg7: wireguard-go refused it: invalid argument"
        assert [outcome.error for outcome in outcomes] == [None, told, None]

    @pytest.mark.parametrize(
        "answer", [b"", b"\n\n", b"nonsense\n\n", b"errno=x\n\n", b"listen_port=1\n\n", b"public_key=zz\nerrno=0\n\n"]
    )
    async def test_an_answer_that_is_none_is_an_error_without_the_key_in_it(self, run_dir: Path, answer: bytes) -> None:
        private_key = PrivateKey.generate()
        async with daemon(run_dir, lambda _: answer) as device:
            with pytest.raises(DeviceError, match="interface wg7: wireguard-go") as reading:
                await device.read()
            assert "wireguard-go" in str(reading.value)
            if not answer.endswith(b"errno=0\n\n"):
                with pytest.raises(DeviceError, match="interface wg7: wireguard-go") as configuring:
                    await device.configure(private_key, 1)
                assert private_key.reveal().hex() not in str(configuring.value)

    async def test_a_daemon_that_lost_its_key_is_noticed(self, run_dir: Path) -> None:
        answers = [b"errno=0\n\n", b"private_key=00\nlisten_port=7\nerrno=0\n\n", b"listen_port=7\nerrno=0\n\n"]
        async with daemon(run_dir, lambda _: answers.pop(0)) as device:
            private_key = PrivateKey.generate()
            await device.configure(private_key, 7)

            assert (await device.read()).public_key == private_key.public()
            assert (await device.read()).public_key is None
