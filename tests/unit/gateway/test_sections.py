"""What a gateway's sections hold after changes that the kernel or the kind of a service make difficult."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from kakuremichi.dataplane.haproxy.desired import Frontend
from kakuremichi.dataplane.haproxy.files import Files, Layout
from kakuremichi.dataplane.haproxy.memory import MemoryProxy
from kakuremichi.dataplane.haproxy.reconcile import Reconciler as ProxyReconciler
from kakuremichi.dataplane.links.desired import LinkState
from kakuremichi.dataplane.links.memory import MemoryLink
from kakuremichi.dataplane.nftables.memory import MemoryTable
from kakuremichi.dataplane.nftables.reconcile import Reconciler as TableReconciler
from kakuremichi.dataplane.wireguard.memory import MemoryDevice
from kakuremichi.dataplane.wireguard.reconcile import PeerReconciler
from kakuremichi.node.peering import PeerSection, RouteSection
from kakuremichi.node.worker import Perform
from kakuremichi.reconcile.holding import Holding, Key
from kakuremichi.wire.records import Route
from kakuremichi_gateway.model import GatewayModel
from kakuremichi_gateway.publishing import HttpSection, L4Section
from kakuremichi_gateway.sections import Gateway
from support.feedmaker import verifier
from support.people import MAIN, Person, http_route, tcp_route

SITE = Person("site-a", subnet="10.1.0.0/24")
KEY: Key = ("route", "app")


class StartedProxy(MemoryProxy):
    """With a parent that starts it as soon as there is something to start with."""

    async def save(self, files: Files) -> None:
        await super().save(files)
        if not self.pid:
            self.start()


class Rig:
    """A gateway on fakes, with one agent. `give` brings one record of the service `app` to them."""

    def __init__(self, tmp_path: Path) -> None:
        layout = Layout(tmp_path / "haproxy")
        layout.directory.mkdir()
        self.table, self.proxy = MemoryTable(), StartedProxy()
        model = GatewayModel(verifier(), MAIN)
        model.take([(("agent-peer", "site-a"), SITE.agent_peer())])

        async def no_flows(_marks: object) -> None:
            """The fake table has no flows to end."""

        self.gateway = Gateway(
            model,
            Holding("feed.pool.main"),
            PeerSection("agent-peer", PeerReconciler(MemoryDevice()), lambda _node: None),
            RouteSection("agent-peer", MemoryLink("kk0", LinkState("")), lambda _node: None, lambda: LinkState("kk")),
            L4Section(model, self.table, TableReconciler(self.table), "kk0", 1, flush=no_flows),
            HttpSection(model, ProxyReconciler(self.proxy, Frontend(), layout)),
        )

    async def open(self) -> None:
        await self.gateway.l4.whole()
        await self.gateway.http.whole()

    async def give(self, record: Route | None) -> dict[Key, str]:
        return await self._perform(self.gateway._steps(self.gateway.model.take([(KEY, record)])))

    async def again(self) -> dict[Key, str]:
        """As the worker does with a key that has left an error; the feed holds no record of it."""
        return await self._perform(self.gateway.plan(frozenset({KEY})).steps)

    async def _perform(self, steps: Iterable[tuple[str, Perform]]) -> dict[Key, str]:
        errors: dict[Key, str] = {}
        for _, perform in steps:
            errors.update(await perform())
        return errors


@pytest.fixture
async def rig(tmp_path: Path) -> Rig:
    made = Rig(tmp_path)
    await made.open()
    return made


async def test_a_removal_that_the_kernel_refused_is_reported_until_it_is_done(rig: Rig) -> None:
    await rig.give(tcp_route("app", "site-a", 7000))
    rig.table.fail_at = {len(rig.table.batches), len(rig.table.batches) + 1}

    assert KEY in await rig.give(None)
    assert KEY in await rig.again()
    assert rig.table.elements != {}
    assert await rig.again() == {}
    assert rig.table.elements == {}


async def test_a_service_that_changes_its_kind_leaves_nothing_where_it_was(rig: Rig) -> None:
    for record in (tcp_route("app", "site-a", 7000), http_route("app", "site-a"), tcp_route("app", "site-a", 7001)):
        assert await rig.give(record) == {}

        ports = [place for place in rig.table.elements if place[0] == "ports"]
        routes = (await rig.proxy.read()).routes
        assert (len(ports), len(routes)) == ((1, 0) if record.kind == "tcp" else (0, 1))
