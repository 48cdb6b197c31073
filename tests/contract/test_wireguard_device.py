"""What every WireGuard engine does, run on the fake, on wireguard-go and, where there is one, on the kernel's."""

import asyncio
import itertools
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

import pytest
from pyroute2 import AsyncIPRoute

from kakuremichi.dataplane.links.desired import LinkState
from kakuremichi.dataplane.links.interfaces import change_interface, create_interface, find_interface, remove_interface
from kakuremichi.dataplane.links.kernel import KernelLink
from kakuremichi.dataplane.links.reconcile import reconcile as reconcile_link
from kakuremichi.dataplane.wireguard.desired import Peer, Peers
from kakuremichi.dataplane.wireguard.device import Device, DeviceError, Outcome
from kakuremichi.dataplane.wireguard.diff import RemovePeer, SetPeer
from kakuremichi.dataplane.wireguard.engine import adopt, link_alias, old_wireguard_go, open_device
from kakuremichi.dataplane.wireguard.kernel import kernel_has_wireguard
from kakuremichi.dataplane.wireguard.memory import MemoryDevice
from kakuremichi.dataplane.wireguard.reconcile import PeerReconciler
from kakuremichi.lab.programs import find_wireguard_go
from kakuremichi.model.addresses import Endpoint, IPNetwork, parse_endpoint
from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import PrivateKey, PublicKey, key_text

ALIAS = link_alias("test", NodeId("gw1"))
_numbers = itertools.count()

# Where the module is not loaded its cases are left out: tests/real/test_kernel_wireguard.py boots a kernel that has it.
_loaded = ["userspace", "kernel"] if Path("/sys/module/wireguard").exists() else ["userspace"]
real_engines = [pytest.param(kind, marks=pytest.mark.root) for kind in _loaded]
all_engines = ["memory", *real_engines]


def unique_name() -> str:
    """Unique on the machine, not only in the namespace: wireguard-go's sockets all lie in one folder."""
    return f"kk{os.getpid() % 10**7}x{next(_numbers)}"


@contextmanager
def wireguard_go(name: str) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon in the namespace we are in, all descriptors on the null device: it would keep a pipe open for ever."""
    null = subprocess.DEVNULL
    with subprocess.Popen([find_wireguard_go(), "-f", name], stdin=null, stdout=null, stderr=null) as daemon:
        try:
            yield daemon
        finally:
            daemon.terminate()


@contextmanager
def engine(kind: str, name: str) -> Iterator[None]:
    """What must run for an engine of that kind; the kernel's needs nothing."""
    if kind == "userspace":
        with wireguard_go(name):
            yield
    else:
        yield


@pytest.fixture
def name() -> str:
    return unique_name()


@pytest.fixture(params=all_engines)
def running(request: pytest.FixtureRequest, name: str) -> Iterator[str]:
    if request.param == "memory":
        yield "memory"
        return
    request.getfixturevalue("own_namespace")
    with engine(request.param, name):
        yield request.param


@pytest.fixture
async def device(running: str, name: str) -> AsyncIterator[Device]:
    opened: Device = MemoryDevice(name) if running == "memory" else await open_device(name, ALIAS)
    await opened.configure(PrivateKey.generate(), 0)
    yield opened
    opened.close()


def new_key() -> PublicKey:
    return PrivateKey.generate().public()


def peer(*networks: str, endpoint: str | None = None, keepalive_s: int = 0) -> Peer:
    ips: frozenset[IPNetwork] = frozenset(ip_network(network) for network in networks)
    return Peer(new_key(), ips, parse_endpoint(endpoint) if endpoint else None, keepalive_s)


def by_key(*peers: Peer) -> Peers:
    return {one.public_key: one for one in peers}


async def peers_of(device: Device) -> Peers:
    return {key: state.peer for key, state in (await device.read()).peers.items()}


async def set_all(device: Device, *peers: Peer) -> None:
    outcomes = await device.apply([SetPeer(one) for one in peers])
    assert all(outcome.error is None for outcome in outcomes), outcomes


class TestConfiguration:
    async def test_the_port_is_told_and_the_key_is_known_by_its_public_half(self, device: Device) -> None:
        for port in (45123, None):  # None: as it is
            private_key = PrivateKey.generate()

            await device.configure(private_key, port)

            state = await device.read()
            assert (state.public_key, state.listen_port) == (private_key.public(), 45123)
            assert await device.has_key(private_key.public())

    async def test_a_strange_key_is_denied_and_leaves_no_trace(self, device: Device) -> None:
        assert not await device.has_key(new_key())

        assert await peers_of(device) == {}

    async def test_a_new_private_key_keeps_the_peers(self, device: Device) -> None:
        one = peer("10.1.0.100/32")
        await set_all(device, one)

        await device.configure(PrivateKey.generate(), 0)

        assert await peers_of(device) == by_key(one)

    async def test_what_is_read_does_not_hold_the_private_key(self, device: Device) -> None:
        private_key = PrivateKey.generate()
        await device.configure(private_key, 0)

        told = repr(await device.read())

        raw = private_key.reveal()
        assert raw.hex() not in told
        assert key_text(raw) not in told
        assert repr(raw)[2:-1] not in told


class TestPeers:
    @pytest.mark.parametrize("endpoint", ["192.0.2.7:51820", "[2001:db8::7]:51821"])
    async def test_a_peer_is_read_as_it_was_set(self, device: Device, endpoint: str) -> None:
        one = peer("10.1.0.100/32", "fd00:1::100/128", "10.9.0.0/16", endpoint=endpoint, keepalive_s=25)

        await set_all(device, one)

        state = (await device.read()).peers[one.public_key]
        assert (state.peer, state.last_handshake, state.rx_bytes) == (one, None, 0)

    async def test_setting_replaces_all_allowed_ips(self, device: Device) -> None:
        one = peer("10.1.0.100/32", "10.1.1.100/32")
        await set_all(device, one)
        changed = Peer(one.public_key, frozenset({IPv4Network("10.1.2.100/32")}))

        await set_all(device, changed)

        assert await peers_of(device) == by_key(changed)

    async def test_a_step_without_endpoint_leaves_the_endpoint(self, device: Device) -> None:
        one = peer("10.1.0.100/32", endpoint="192.0.2.7:51820")
        await set_all(device, one)

        await set_all(device, Peer(one.public_key, frozenset(), None, 5))

        assert await peers_of(device) == by_key(Peer(one.public_key, frozenset(), one.endpoint, 5))

    async def test_an_allowed_ip_moves_to_the_peer_that_claims_it_last(self, device: Device) -> None:
        first, second = peer("10.1.0.100/32", "10.1.1.100/32"), peer("10.1.0.100/32")

        await set_all(device, first, second)

        left = Peer(first.public_key, frozenset({IPv4Network("10.1.1.100/32")}))
        assert await peers_of(device) == by_key(left, second)

    async def test_removing_is_repeatable(self, device: Device) -> None:
        one = peer("10.1.0.100/32")
        await set_all(device, one)
        step = RemovePeer(one.public_key)

        assert await device.apply([step, step]) == (Outcome(step), Outcome(step))
        assert await peers_of(device) == {}

    async def test_a_peer_that_is_the_device_itself_is_passed_over(self, device: Device) -> None:
        private_key = PrivateKey.generate()
        await device.configure(private_key, 0)
        other = peer("10.1.1.100/32")

        await set_all(device, Peer(private_key.public(), frozenset({IPv4Network("10.1.0.100/32")})), other)

        assert await peers_of(device) == by_key(other)

    async def test_no_step_is_no_work(self, device: Device) -> None:
        assert await device.apply([]) == ()


class TestManyPeers:
    async def test_a_thousand_peers_are_set_read_and_found_equal(self, device: Device) -> None:
        places = [(IPv4Network((0x0A000064 + (n << 8), 32)), IPv6Network(f"fd00:{n:x}::100/128")) for n in range(1000)]
        peers = by_key(*(Peer(new_key(), frozenset(place), None, n % 3) for n, place in enumerate(places)))
        reconciler = PeerReconciler(device)

        outcomes = await reconciler.reconcile(peers, frozenset())

        assert [outcome.error for outcome in outcomes] == [None] * 1000
        assert await peers_of(device) == peers
        assert await reconciler.reconcile(peers, frozenset()) == ()

    async def test_a_peer_with_thousands_of_allowed_ips_is_read_whole(self, device: Device) -> None:
        many = frozenset[IPNetwork](IPv4Network((0x0A000000 + n, 32)) for n in range(5000))
        one, other = Peer(new_key(), many), peer("172.16.0.0/24")

        await set_all(device, one, other)
        assert await peers_of(device) == by_key(one, other)

        fewer = Peer(one.public_key, frozenset({IPv4Network("10.0.0.1/32")}))
        await set_all(device, fewer)
        assert await peers_of(device) == by_key(fewer, other)


class TestReconciling:
    async def test_a_rotated_key_takes_over_and_the_old_one_goes(self, device: Device) -> None:
        old, other = peer("10.1.0.100/32", keepalive_s=5), peer("10.1.1.100/32")
        new = Peer(new_key(), old.allowed_ips, None, 5)
        reconciler = PeerReconciler(device)
        await reconciler.reconcile(by_key(old, other), frozenset())

        outcomes = await reconciler.change(by_key(old), by_key(new))

        assert outcomes == (Outcome(SetPeer(new)), Outcome(RemovePeer(old.public_key)))
        assert await peers_of(device) == by_key(new, other)
        assert await reconciler.reconcile(by_key(new, other), frozenset()) == ()

    async def test_allowed_ips_that_go_round_between_peers_end_where_they_should(self, device: Device) -> None:
        places = [f"10.1.{n}.100/32" for n in range(4)]
        before = [peer(place) for place in places]
        after = [
            Peer(one.public_key, before[(n + 1) % 4].allowed_ips | {IPv4Network(f"10.2.{n}.0/24")})
            for n, one in enumerate(before)
        ]
        reconciler = PeerReconciler(device)
        await reconciler.reconcile(by_key(*before), frozenset())

        await reconciler.reconcile(by_key(*after), frozenset())

        assert await peers_of(device) == by_key(*after)
        assert await reconciler.reconcile(by_key(*after), frozenset()) == ()

    async def test_a_revoked_peer_goes_even_if_it_is_still_desired(self, device: Device) -> None:
        bad, good = peer("10.1.0.100/32"), peer("10.1.1.100/32")
        await set_all(device, bad)

        outcomes = await PeerReconciler(device).reconcile(by_key(bad, good), {bad.public_key})

        assert outcomes == (Outcome(RemovePeer(bad.public_key)), Outcome(SetPeer(good)))
        assert await peers_of(device) == by_key(good)


@pytest.mark.parametrize("running", real_engines, indirect=True)
class TestRealEngine:
    async def test_a_peer_that_roamed_is_followed_and_not_pulled_back(
        self, running: str, device: Device, name: str
    ) -> None:
        other_name = unique_name()
        with engine(running, other_name):
            other = await open_device(other_name, ALIAS)
            key, other_key = PrivateKey.generate(), PrivateKey.generate()
            await device.configure(key, 45001)
            await other.configure(other_key, 45002)
            for one in ("lo", name, other_name):
                await change_interface(one, state="up")
            announced = Peer(other_key.public(), frozenset(), Endpoint(ip_network("127.0.0.1/32")[0], 45002), 1)
            here = Peer(key.public(), frozenset(), Endpoint(ip_network("127.0.0.1/32")[0], 45001), 1)
            reconciler = PeerReconciler(device)
            await reconciler.reconcile(by_key(announced), frozenset())
            await set_all(other, here)
            started = time.time()
            await until(device, other_key.public(), 45002, handshake=True)

            await other.configure(other_key, 45003)
            await until(device, other_key.public(), 45003)

            state = (await device.read()).peers[other_key.public()]
            assert state.last_handshake is not None
            assert abs(state.last_handshake - started) < 30
            assert state.rx_bytes > 0
            assert await reconciler.reconcile(by_key(announced), frozenset()) == ()
            moved = Peer(announced.public_key, announced.allowed_ips, announced.endpoint, 2)
            await reconciler.reconcile(by_key(moved), frozenset())
            still = (await device.read()).peers[other_key.public()].peer.endpoint
            assert still is not None
            assert still.port == 45003
            other.close()

    async def test_it_is_adopted_by_mark_and_key(self, device: Device, name: str) -> None:
        private_key = PrivateKey.generate()
        await device.configure(private_key, 0)
        one = peer("10.1.0.100/32")
        await set_all(device, one)

        again = await open_device(name, ALIAS)

        assert await adopt(again, ALIAS, private_key.public())
        assert not await adopt(again, ALIAS, new_key())
        assert not await adopt(again, link_alias("test", NodeId("gw2")), private_key.public())
        assert await peers_of(again) == by_key(one)
        again.close()

    async def test_an_interface_of_another_is_left_alone(self, device: Device, name: str) -> None:
        await set_all(device, peer("10.1.0.100/32"))

        with pytest.raises(DeviceError, match="is marked 'kakuremichi:test:gw1', not ours"):
            await open_device(name, link_alias("test", NodeId("gw2")))
        await change_interface(name, ifalias="")
        with pytest.raises(DeviceError, match="in use and not marked as ours"):
            await open_device(name, ALIAS)

        interface = await find_interface(name)
        assert interface is not None
        assert interface.alias == ""

    async def test_an_interface_that_is_gone_is_told_by_name(self, device: Device, name: str) -> None:
        await remove_interface(name)

        with pytest.raises(DeviceError, match=f"interface {name}: "):
            await read_for_ever(device)
        outcomes = await device.apply([SetPeer(peer("10.1.0.100/32")), RemovePeer(new_key())])
        assert all(outcome.error is not None and name in outcome.error for outcome in outcomes)
        with pytest.raises(DeviceError, match=f"interface {name}: "):
            await device.configure(PrivateKey.generate(), 0)

    async def test_its_interface_takes_mtu_addresses_and_routes(self, device: Device, name: str) -> None:
        routes = frozenset[IPNetwork](IPv4Network((0x0A010000 + (n << 8), 24)) for n in range(50))
        desired = LinkState(ALIAS, routes=routes)
        async with KernelLink(name) as link:
            await reconcile_link(desired, link)

            assert await link.read() == desired

    async def test_a_new_engine_is_not_called_old(self, device: Device, name: str) -> None:
        assert await old_wireguard_go(name) is None


async def read_for_ever(device: Device) -> None:
    """Ends with the device's error: wireguard-go learns from the kernel that its interface went, then leaves."""
    while True:
        await device.read()


async def until(device: Device, key: PublicKey, port: int, *, handshake: bool = False) -> None:
    """Until the device has heard `key` from `port`; the keepalive of one second makes it speak."""
    while True:
        state = (await device.read()).peers[key]
        endpoint = state.peer.endpoint
        if endpoint is not None and endpoint.port == port and (state.last_handshake is not None or not handshake):
            return
        await asyncio.sleep(0.05)


@pytest.mark.root
class TestOpening:
    async def test_a_tun_device_that_moves_single_packets_is_told(self, own_namespace: None, name: str) -> None:
        async with AsyncIPRoute() as route:
            await route.link("add", ifname=name, kind="tuntap", mode="tun")

        warning = await old_wireguard_go(name)

        assert warning is not None
        assert warning.startswith(f"interface {name}: this wireguard-go moves one packet at a time")

    async def test_an_interface_of_another_kind_is_refused(self, own_namespace: None, name: str) -> None:
        await create_interface(name, "bridge")

        with pytest.raises(DeviceError, match="is of kind bridge, not WireGuard"):
            await open_device(name, ALIAS)

    async def test_a_daemon_that_does_not_run_is_named(self, own_namespace: None, name: str) -> None:
        if await kernel_has_wireguard():
            pytest.skip("this kernel makes the interface itself")

        with pytest.raises(DeviceError, match=r"wireguard-go does not listen at .*; is it running"):
            await open_device(name, ALIAS, wait_s=0.1)

    async def test_a_daemon_that_starts_late_is_waited_for(self, own_namespace: None, name: str) -> None:
        if await kernel_has_wireguard():
            pytest.skip("this kernel makes the interface itself")
        opening = asyncio.create_task(open_device(name, ALIAS))
        await asyncio.sleep(0.2)

        with wireguard_go(name):
            device = await opening

            assert device.name == name
