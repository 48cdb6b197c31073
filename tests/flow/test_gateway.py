"""Fact to kernel in memory: what the registry writes is what WireGuard, routes, nftables and HAProxy hold."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from kakuremichi.bus.memory import MemoryBus, MemoryNats
from kakuremichi.dataplane.haproxy.desired import Frontend
from kakuremichi.dataplane.haproxy.files import Files, Layout
from kakuremichi.dataplane.haproxy.memory import MemoryProxy
from kakuremichi.dataplane.haproxy.reconcile import Reconciler as ProxyReconciler
from kakuremichi.dataplane.links.desired import LinkState
from kakuremichi.dataplane.links.memory import MemoryLink
from kakuremichi.dataplane.nftables.memory import MemoryTable
from kakuremichi.dataplane.nftables.reconcile import Reconciler as TableReconciler
from kakuremichi.dataplane.wireguard.desired import Peer
from kakuremichi.dataplane.wireguard.memory import MemoryDevice
from kakuremichi.dataplane.wireguard.reconcile import PeerReconciler
from kakuremichi.model.ids import NodeId
from kakuremichi.node.peering import PeerSection, RouteSection
from kakuremichi.node.reporting import Reporter
from kakuremichi.node.worker import Worker
from kakuremichi.reconcile.follower import Follower
from kakuremichi.reconcile.holding import Holding
from kakuremichi.reconcile.journal import Journal
from kakuremichi.wire.records import Gone, Revocation
from kakuremichi_gateway.model import GatewayModel
from kakuremichi_gateway.publishing import HttpSection, L4Section
from kakuremichi_gateway.sections import Gateway
from support.feedmaker import verifier
from support.people import MAIN, Person, http_route, tcp_route
from support.registry import MemoryRegistry

FEED = "feed.pool.main"
GW = NodeId("gw1")
SITES = [Person(f"site-{letter}", subnet=f"10.{number}.0.0/24") for number, letter in enumerate("abcdef", start=1)]


@dataclass
class Host:
    """The gateway's machine: it outlives the process."""

    device: MemoryDevice
    link: MemoryLink
    table: MemoryTable
    proxy: MemoryProxy

    def peers(self) -> dict[bytes, frozenset[object]]:
        return {bytes(key): frozenset(state.peer.allowed_ips) for key, state in self.device.peers.items()}


@dataclass
class Process:
    """One life of the gateway's process."""

    bus: MemoryBus
    follower: Follower
    worker: Worker
    reporter: Reporter


class HeldProxy(MemoryProxy):
    """With a parent that starts it as soon as there is something to start with."""

    async def save(self, files: Files) -> None:
        await super().save(files)
        if not self.pid:
            self.start()


@pytest.fixture
def host() -> Host:
    proxy = HeldProxy()
    return Host(MemoryDevice(), MemoryLink("kk0", LinkState("")), MemoryTable(), proxy)


async def no_flows(_marks: object) -> None:
    """The fake table has no flows to end."""


@asynccontextmanager
async def running(host: Host, nats: MemoryNats, run_dir: Path) -> AsyncIterator[Process]:
    bus = nats.connect("reply.gw1")
    holding, trust = Holding(FEED), verifier()
    model = GatewayModel(trust, MAIN)
    layout = Layout(run_dir / "haproxy")
    layout.directory.mkdir(exist_ok=True)
    proxy = ProxyReconciler(host.proxy, Frontend(tcp=("TCP",)), layout)

    def peer_of(node: NodeId) -> Peer | None:
        facts = model.agents.get(node)
        return None if facts is None else Peer(facts.public_key, frozenset({IPv4Network(facts.address)}))

    def route_of(node: NodeId) -> IPv4Network | None:
        facts = model.agents.get(node)
        return None if facts is None else facts.subnet

    gateway = Gateway(
        model,
        holding,
        PeerSection("agent-peer", PeerReconciler(host.device), peer_of),
        RouteSection("agent-peer", host.link, route_of, lambda: LinkState("kakuremichi:test")),
        L4Section(model, host.table, TableReconciler(host.table), "kk0", 1, flush=no_flows),
        HttpSection(model, proxy),
    )
    follower = Follower(bus, GW, holding, trust, Journal(run_dir / "feeds", FEED), print)
    reporter = Reporter(bus, GW, bytes(16), (follower,))
    worker = Worker(gateway, reporter.done)
    follower.emit = worker.take
    if follower.load():
        worker.compare_everything()
    stop = asyncio.Event()
    loops: list[Awaitable[None]] = [follower.run(stop), worker.run(stop), reporter.run(stop), proxy.run(stop)]
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    try:
        yield Process(bus, follower, worker, reporter)
    finally:
        stop.set()
        worker.compare_everything()
        await asyncio.wait(tasks, timeout=5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bus.close()


@pytest.fixture
async def registry() -> AsyncIterator[tuple[MemoryNats, MemoryRegistry]]:
    nats = MemoryNats()
    made = MemoryRegistry(nats.connect("_INBOX.registry"))
    await made.start()
    yield nats, made
    await made.bus.close()


async def test_what_the_registry_writes_is_what_the_host_holds(
    host: Host, registry: tuple[MemoryNats, MemoryRegistry], run_dir: Path
) -> None:
    nats, control = registry
    for site in SITES[:3]:
        control.feed(FEED).write(site.agent_peer())
    control.feed(FEED).write(http_route("wiki", "site-a"))
    async with running(host, nats, run_dir):
        await control.reported(FEED, 4)
        await control.write(FEED, tcp_route("ssh", "site-b", 10022))
        await control.write(FEED, SITES[3].agent_peer())
        await control.reported(FEED, 6)

        assert set(host.peers()) == {bytes(site.public_key) for site in SITES[:4]}
        assert {str(route) for route in host.link.state.routes} == {site.subnet for site in SITES[:4]}
        actual = await host.table.read()
        assert actual is not None
        assert any(key[-1] == "10022" for container, key in actual.elements if container == "ports")
        routes = (await host.proxy.read()).routes
        assert set(routes) == {"wiki.lab.test", ":10022"}  # who comes to the port by IPv6 is HAProxy's
        assert control.reports[-1].errors == ()


async def test_a_lost_message_is_found_and_mended(
    host: Host, registry: tuple[MemoryNats, MemoryRegistry], run_dir: Path
) -> None:
    nats, control = registry
    async with running(host, nats, run_dir) as process:
        await control.write(FEED, SITES[0].agent_peer())
        await control.reported(FEED, 1)
        control.feed(FEED).write(SITES[1].agent_peer())  # written, never delivered
        await control.write(FEED, SITES[2].agent_peer())
        await control.reported(FEED, 3)

        assert set(host.peers()) == {bytes(site.public_key) for site in SITES[:3]}
        assert process.follower.counters.gaps == 1


async def test_noise_on_the_feed_is_counted_and_disturbs_nothing(
    host: Host, registry: tuple[MemoryNats, MemoryRegistry], run_dir: Path
) -> None:
    nats, control = registry
    async with running(host, nats, run_dir) as process:
        await control.write(FEED, SITES[0].agent_peer())
        await control.reported(FEED, 1)
        snapshots = process.follower.counters.snapshots
        for junk in (b"", b"\xc1", b"junk" * 100, bytes(70000)):
            await control.bus.publish(FEED, junk[:65000])
        await control.write(FEED, SITES[1].agent_peer())
        await control.reported(FEED, 2)

        assert process.follower.counters.noise == 4
        assert process.follower.counters.snapshots == snapshots
        assert len(host.peers()) == 2


async def test_a_restart_without_control_plane_changes_nothing(
    host: Host, registry: tuple[MemoryNats, MemoryRegistry], run_dir: Path
) -> None:
    nats, control = registry
    async with running(host, nats, run_dir):
        for site in SITES:
            await control.write(FEED, site.agent_peer())
        await control.write(FEED, http_route("wiki", "site-a"))
        await control.write(FEED, tcp_route("ssh", "site-b", 10022))
        await control.reported(FEED, 8)
    peers, routes, applied = host.peers(), host.link.state.routes, len(host.device.applied)
    elements = (await host.table.read()).elements  # type: ignore[union-attr]

    async with running(host, MemoryNats(), run_dir) as process:  # nobody answers on this bus
        await asyncio.sleep(0.2)

        assert host.peers() == peers
        assert host.link.state.routes == routes
        assert (await host.table.read()).elements == elements  # type: ignore[union-attr]
        assert len(host.device.applied) == applied
        assert process.follower.holding.cursor is not None
        assert process.follower.holding.cursor.feed_seq == 8


async def test_who_is_revoked_goes_first_and_what_is_open_to_it_ends(
    host: Host, registry: tuple[MemoryNats, MemoryRegistry], run_dir: Path
) -> None:
    """The peer before the routes, and HAProxy's connections with it: they would hang, not end."""
    nats, control = registry
    async with running(host, nats, run_dir):
        for site in SITES[:2]:
            await control.write(FEED, site.agent_peer())
        await control.write(FEED, http_route("wiki", "site-a"))
        await control.write(FEED, http_route("blog", "site-b"))
        await control.reported(FEED, 4)
        servers = {
            (number, name): server.address
            for number, names in (await host.proxy.read()).servers.items()
            for name, server in names.items()
        }
        host.proxy.connected = set(servers)

        await control.write(FEED, Revocation(node_id=SITES[0].node_id, epoch=1))
        await control.reported(FEED, 5, clean=False)

        assert set(host.peers()) == {bytes(SITES[1].public_key)}
        assert {servers[at] for at in host.proxy.connected} == {"10.2.0.100"}
        assert control.reports[-1].errors[0].message == "target wiki-0: agent site-a has announced no key"
        await control.write(FEED, Gone(kind="agent-peer", key="site-a"))
        await control.write(FEED, http_route("wiki", None))
        await control.reported(FEED, 7)
        assert set(host.peers()) == {bytes(SITES[1].public_key)}


async def test_a_cut_that_haproxy_missed_is_made_when_it_is_back(
    host: Host, registry: tuple[MemoryNats, MemoryRegistry], run_dir: Path
) -> None:
    nats, control = registry
    async with running(host, nats, run_dir):
        await control.write(FEED, SITES[0].agent_peer())
        await control.write(FEED, http_route("wiki", "site-a"))
        await control.reported(FEED, 2)
        pid, host.proxy.pid = host.proxy.pid, 0
        host.proxy.connected = {(number, name) for number, names in host.proxy._servers.items() for name in names}
        await control.write(FEED, Revocation(node_id=SITES[0].node_id, epoch=1))
        await control.reported(FEED, 3, clean=False)
        assert not host.peers()  # the peer does not wait for HAProxy
        assert host.proxy.connected

        host.proxy.pid = pid
        async with asyncio.timeout(10):
            while host.proxy.connected:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.05)


async def test_removing_one_agent_removes_its_parts_and_no_others(
    host: Host, registry: tuple[MemoryNats, MemoryRegistry], run_dir: Path
) -> None:
    nats, control = registry
    async with running(host, nats, run_dir):
        for site in SITES[:2]:
            await control.write(FEED, site.agent_peer())
        await control.write(FEED, http_route("wiki", "site-a"))
        await control.write(FEED, http_route("blog", "site-b"))
        await control.write(FEED, http_route("wiki", None))  # no target is left
        await control.write(FEED, Gone(kind="agent-peer", key="site-a"))
        await control.reported(FEED, 6)

        assert set(host.peers()) == {bytes(SITES[1].public_key)}
        assert {str(route) for route in host.link.state.routes} == {SITES[1].subnet}
        assert set((await host.proxy.read()).routes) == {"wiki.lab.test", "blog.lab.test"}
        assert control.reports[-1].errors == ()
