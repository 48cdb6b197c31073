"""What a gateway's sections hold after changes that the kernel or the kind of a service make difficult."""

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from msgspec import Raw

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
from kakuremichi.model.ids import ServiceId
from kakuremichi.model.options import Limits, Options, Upstream
from kakuremichi.node.peering import PeerSection, RouteSection
from kakuremichi.node.worker import Perform
from kakuremichi.reconcile.holding import Holding, Key
from kakuremichi.wire.records import Route, RouteWithOptions
from kakuremichi_gateway.model import GatewayModel
from kakuremichi_gateway.publishing import NAMES_KEPT, HttpSection, L4Section, Numbers
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

    def __init__(self, run_dir: Path) -> None:
        layout = Layout(run_dir / "haproxy")
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
            HttpSection(model, ProxyReconciler(self.proxy, Frontend(tcp=("TCP",)), layout)),
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
async def rig(run_dir: Path) -> Rig:
    made = Rig(run_dir)
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

        ports = [key for name, key in rig.table.elements if name == "ports" and key[0] == "ipv4"]
        # HAProxy has a part in both: it takes in who comes to the port by IPv6.
        place = f":{record.first_port}" if record.kind == "tcp" else record.host
        assert len(ports) == (record.kind == "tcp")
        assert set((await rig.proxy.read()).routes) == {place}


def with_options(route: Route, options: Options) -> Route:
    fields = {name: getattr(route, name) for name in route.__struct_fields__}
    return RouteWithOptions(**fields, options=Raw(msgspec.msgpack.encode(options)))


def numbers(rig: Rig, container: str) -> list[str]:
    return [data[0] for (name, _), data in rig.table.elements.items() if name == container]


async def test_limits_of_tcp_and_udp_reach_the_kernel_and_go_with_the_option(rig: Rig) -> None:
    limits = Options(limits=Limits(rate=50, connections_per_client=3, bandwidth=10**6))

    assert await rig.give(with_options(tcp_route("app", "site-a", 7000), limits)) == {}
    assert [numbers(rig, name) for name in ("rate", "client_conns", "bandwidth")] == [["50"], ["3"], ["1000000"]]
    assert await rig.give(tcp_route("app", "site-a", 7000)) == {}
    assert [numbers(rig, name) for name in ("rate", "client_conns", "bandwidth")] == [[], [], []]


async def test_bandwidth_of_http_is_kept_on_the_way_from_the_agents_port(rig: Rig) -> None:
    limited = Options(limits=Limits(bandwidth=10**6))

    assert await rig.give(with_options(http_route("app", "site-a", port=20007), limited)) == {}
    assert rig.table.elements == {("shaped", ("10.1.0.100", "20007")): ("1000000",)}
    await rig.gateway.l4.whole()
    assert numbers(rig, "shaped") == ["1000000"]
    assert await rig.give(http_route("app", "site-a", port=20007)) == {}
    assert rig.table.elements == {}


async def test_the_bytes_of_an_http_service_are_not_limited_twice(rig: Rig) -> None:
    rig.gateway.l4.shapes_http = False  # its HAProxy does
    limited = Options(limits=Limits(bandwidth=10**6))

    assert await rig.give(with_options(http_route("app", "site-a", port=20007), limited)) == {}

    assert rig.table.elements == {}


async def test_a_bandwidth_for_each_client_is_refused_where_haproxy_cannot_keep_it(rig: Rig) -> None:
    each = with_options(http_route("app", "site-a"), Options(limits=Limits(bandwidth_per_client=1000)))

    assert "needs HAProxy 2.7, this gateway has 2.6" in (await rig.give(each))[KEY]
    assert (await rig.proxy.read()).routes == {}
    assert await rig.give(http_route("app", "site-a")) == {}


async def test_ipv6_visitors_of_tcp_go_to_haproxy_and_all_of_them_with_proxy_protocol(rig: Rig) -> None:
    plain, proxied = tcp_route("app", "site-a", 7000), Options(upstream=Upstream(proxy_protocol=2))

    await rig.give(plain)
    assert [numbers(rig, name) for name in ("to4", "carried4", "carried6")] == [["10.1.0.100"], [], ["15080"]]
    await rig.give(with_options(plain, proxied))
    assert [numbers(rig, name) for name in ("to4", "carried4", "carried6")] == [[], ["15080"], ["15080"]]


async def test_counts_are_told_by_service_and_a_gone_one_is_still_known_by_its_number(rig: Rig) -> None:
    await rig.give(tcp_route("app", "site-a", 7000))

    assert list(await rig.gateway.l4.counts()) == ["app"]
    number = rig.gateway.l4.numbers.by_service[ServiceId("app")]
    await rig.give(None)
    assert await rig.gateway.l4.counts() == {}
    assert rig.gateway.l4.numbers.name(number) == "app"
    assert rig.gateway.l4.numbers.name(number + 1) == ""


def test_the_names_of_gone_services_are_forgotten_in_the_end() -> None:
    book, facts = Numbers(), GatewayModel(verifier(), MAIN)
    for count in range(NAMES_KEPT + 50):
        key = (("route", f"s{count}"), tcp_route(f"s{count}", None, 7000))
        facts.take([key])
        book.of(facts.routes[ServiceId(f"s{count}")])
        if count:
            book.forget(ServiceId(f"s{count}"))

    assert book.name(1) == "s0"  # it lives
    assert book.name(2) == ""
    assert book.name(NAMES_KEPT + 50) == f"s{NAMES_KEPT + 49}"
