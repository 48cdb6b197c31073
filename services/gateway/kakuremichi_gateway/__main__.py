"""`kakuremichi-gateway`: WireGuard, nftables and HAProxy of one public node. Wiring only."""

from contextlib import AsyncExitStack
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path

import click
import structlog

from kakuremichi.dataplane.haproxy.capabilities import OLDEST, Capabilities, probe
from kakuremichi.dataplane.haproxy.desired import Frontend
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.launch import find_program
from kakuremichi.dataplane.haproxy.listening import host_has_ipv6
from kakuremichi.dataplane.haproxy.proxy import Haproxy
from kakuremichi.dataplane.haproxy.reconcile import Reconciler as ProxyReconciler
from kakuremichi.dataplane.haproxy.stats import read_workers
from kakuremichi.dataplane.haproxy.visitors import HTTP3_PORT
from kakuremichi.dataplane.links.desired import LinkState
from kakuremichi.dataplane.links.kernel import KernelLink
from kakuremichi.dataplane.links.sysctl import FORWARDING, ensure, per_interface, without_ipv6
from kakuremichi.dataplane.nftables.device import NftTable
from kakuremichi.dataplane.nftables.gateway import TCP_DOOR
from kakuremichi.dataplane.nftables.marks import Proto
from kakuremichi.dataplane.nftables.reconcile import Reconciler as TableReconciler
from kakuremichi.dataplane.nftables.sizing import make_room
from kakuremichi.dataplane.wireguard.desired import Peer
from kakuremichi.dataplane.wireguard.device import Device
from kakuremichi.dataplane.wireguard.engine import old_wireguard_go, open_device
from kakuremichi.dataplane.wireguard.reconcile import PeerReconciler
from kakuremichi.model.addresses import (
    WIREGUARD_PORT,
    AddressRefusedError,
    IPNetwork,
    host_network,
    parse_endpoint,
    tunnel_address6,
    tunnel_network6,
)
from kakuremichi.model.ids import NodeId
from kakuremichi.node.cli import NodeOptions, node_command
from kakuremichi.node.firewalls import Firewalls, manage_firewall_option
from kakuremichi.node.heard import LastHeard
from kakuremichi.node.key import hold_key, make_key
from kakuremichi.node.metrics import NodeMetrics
from kakuremichi.node.peering import PeerSection, RouteSection
from kakuremichi.node.rotation import Rotator
from kakuremichi.node.run import Station, host_networks
from kakuremichi.node.witnessing import Witness
from kakuremichi.runtime.config import ConfigError
from kakuremichi.wire import subjects
from kakuremichi_gateway.counters import CounterDesk
from kakuremichi_gateway.counting import FlowCount, HttpCount
from kakuremichi_gateway.metrics import GatewayMetrics
from kakuremichi_gateway.model import GatewayModel
from kakuremichi_gateway.publishing import HttpSection, L4Section
from kakuremichi_gateway.sections import Gateway
from kakuremichi_gateway.traffic import GatewayTraffic
from kakuremichi_gateway.visitors import Visitors, visitor_options
from kakuremichi_gateway.well_known import WellKnown

log = structlog.get_logger()

KEEPALIVE_S = 25
# The dummy address of RFC 7600, never seen on the wire: what leaves gets a source by rule, and the echo requests
# of agents can be redirected only to an interface that has an address.
PLACEHOLDER = IPv4Interface("192.0.0.8/32")
EVERYWHERE = IPv4Address(0), IPv6Address(0)


@node_command("gateway")
@click.option("--endpoint", multiple=True, help="IP[:port] where agents reach this gateway; repeatable.")
@click.option(
    "--haproxy-dir", default=Path("/run/kakuremichi/haproxy"), type=click.Path(path_type=Path), help="HAProxy's folder."
)
@click.option("--certificates", type=click.Path(path_type=Path), help="HAProxy crt-list for port 443; without it none.")
@visitor_options
@manage_firewall_option
async def main(
    options: NodeOptions,
    endpoint: tuple[str, ...],
    haproxy_dir: Path,
    certificates: Path | None,
    *,
    visitors: Visitors,
    manage_firewall: bool,
) -> None:
    """Carry visitors to the private services behind the agents of this pool."""
    endpoints = _parsed(endpoint)
    networks = tuple(await host_networks(options.interface))
    enrolment = await options.enrolled(networks=networks, endpoints=endpoints)
    node, endpoints = enrolment.node, endpoints or enrolment.answer.endpoints
    station = Station.open(options.state, enrolment, options.interface)
    async with AsyncExitStack() as stack:
        device = await open_device(options.interface, station.alias, uapi_directory=options.uapi_directory)
        stack.callback(device.close)
        port = _port(endpoints)
        adopted = await hold_key(device, station.alias, options.state, enrolment, listen_port=port, endpoints=endpoints)
        link = await stack.enter_async_context(KernelLink(options.interface))
        warnings = await _prepare_host(options.interface, visitors.sysctls)
        warnings += [("ipv6", lacks)] if (lacks := without_ipv6(options.interface)) else []
        tunnel6 = None if lacks else tunnel_network6(enrolment.deployment)
        feeds = station.open_feeds((subjects.pool_feed(node.pool),))
        heard = LastHeard(options.state.directory / "endpoints", fresh=not adopted)
        layout = Layout(haproxy_dir)
        capabilities = await probe(program) if (program := find_program()) else OLDEST
        warnings += _missing_for_http3(certificates, capabilities) if visitors.http3 else []
        proxy = _proxy(layout, certificates, capabilities, visitors)
        model = GatewayModel(station.verifier, node.pool, tunnel6, epochs=station.epochs.epochs)
        l4 = _l4(model, options.interface, node.slot, visitors, capabilities, https=certificates is not None)
        gateway = Gateway(
            model,
            feeds.holdings[0],
            *_tunnel(model, device, link, station.alias, heard),
            l4,
            HttpSection(model, proxy, capabilities, keeps_access_log=visitors.access_log is not None),
            direct=station.direct,
        )
        agents = station.direct_peers("agent", feeds.holdings[0].desired, model.check)
        rotator = Rotator(device, options.state, enrolment, options.rotate_every_s)
        firewalls = _firewalls(station, model, endpoints, manage=manage_firewall, https=certificates is not None)
        counts = _counts(l4, proxy, layout)
        log.info("gateway starts", node=node.node_id, pool=node.pool, slot=node.slot, endpoints=endpoints)
        await station.run(
            gateway,
            feeds,
            warnings,
            rotator,
            new_key=partial(make_key, device, options.state, enrolment, listen_port=port, endpoints=endpoints),
            metrics=NodeMetrics(options.metrics_listen, GatewayMetrics(*counts).collect),
            haproxy=proxy.run,
            well_known=WellKnown(layout.own_socket, agents.take, rotator.exchange).run,
            endpoints=partial(heard.watch, device),
            firewalls=firewalls.run,
            counters=CounterDesk(station.bus, node.node_id, node.pool, l4, *counts).run,
            witness=Witness(station.bus, options.state, enrolment, station.emit.warn).run,
            **visitors.loops(l4.numbers.name, station.emit.warn, layout.access_log),
        )


def _parsed(endpoints: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(str(parse_endpoint(text)) for text in endpoints)
    except AddressRefusedError as error:
        raise ConfigError((f"--endpoint: {error}",)) from error


async def _prepare_host(interface: str, more: dict[str, str]) -> list[tuple[str, str]]:
    """Kernel settings, `more` among them; what could not be done, as (topic, sentence) for the report."""
    sysctls = FORWARDING | per_interface(interface, rp_filter="2") | more
    warnings = [(setting.name, setting.error) for setting in ensure(sysctls) if setting.error]
    for setting in make_room():
        # No warning: a container has to live with its host's sizes, and a table that gets full is told of.
        log.info("room for connections", sysctl=setting.name, at_least=setting.value, error=setting.error)
    if slow := await old_wireguard_go(interface):
        warnings.append(("engine", slow))
    return warnings


def _tunnel(
    model: GatewayModel, device: Device, link: KernelLink, alias: str, heard: LastHeard
) -> tuple[PeerSection, RouteSection]:
    def peer_of(agent: NodeId) -> Peer | None:
        facts = model.agents.get(agent)
        if facts is None:
            return None
        allowed = frozenset(map(host_network, facts.addresses))
        # An engine that starts with nothing would wait for the agent's next packet: it calls where it was last.
        endpoint = heard.endpoint(facts.public_key)
        return Peer(facts.public_key, allowed, endpoint, KEEPALIVE_S if endpoint else 0)

    def route_of(agent: NodeId) -> IPNetwork | None:
        facts = model.agents.get(agent)
        return facts.subnet if facts else None

    peers = PeerSection("agent-peer", PeerReconciler(device), peer_of)
    base = _interface(alias, model.tunnel6)
    return peers, RouteSection("agent-peer", link, route_of, lambda: base)


def _interface(alias: str, tunnel6: IPv6Network | None) -> LinkState:
    if tunnel6 is None:
        return LinkState(alias, addresses=frozenset({PLACEHOLDER}))
    # HAProxy's connections need some address to begin with, and the host may have no other one of IPv6.
    placeholder6 = IPv6Interface((tunnel_address6(tunnel6, PLACEHOLDER.ip), 128))
    # One route for all agents: nothing but tunnels can be in this network.
    return LinkState(alias, addresses=frozenset({PLACEHOLDER, placeholder6}), routes=frozenset({tunnel6}))


def _l4(
    model: GatewayModel, interface: str, slot: int, visitors: Visitors, capabilities: Capabilities, *, https: bool
) -> L4Section:
    table = NftTable()
    public: tuple[tuple[Proto, int], ...] = (("tcp", 80), ("tcp", 443)) if https else (("tcp", 80),)
    if visitors.http3:
        public = (*public, ("udp", HTTP3_PORT))
    return L4Section(
        model,
        table,
        TableReconciler(table),
        interface,
        slot,
        listeners=frozenset(public),
        guarded=frozenset({("tcp", TCP_DOOR)}),
        guards=visitors.guards,
        shapes_http=not capabilities.bandwidth,
    )


def _missing_for_http3(certificates: Path | None, capabilities: Capabilities) -> list[tuple[str, str]]:
    if certificates is None:
        return [("http3", "--http3 needs --certificates: no visitor comes by HTTP/3")]
    version = ".".join(map(str, capabilities.version))
    lacks = f"this HAProxy ({version}) has no QUIC: no visitor comes by HTTP/3"
    return [] if capabilities.quic else [("http3", lacks)]


def _counts(l4: L4Section, proxy: ProxyReconciler, layout: Layout) -> tuple[HttpCount, FlowCount]:
    http = HttpCount(lambda: proxy.owners, partial(read_workers, layout))
    proxy.before_reload = http.note
    return http, FlowCount(l4.counts)


def _proxy(
    layout: Layout, certificates: Path | None, capabilities: Capabilities, visitors: Visitors
) -> ProxyReconciler:
    ipv6 = host_has_ipv6()
    frontend = Frontend(
        http=("80", "80V6") if ipv6 else ("80",),
        tls=() if not certificates else ("443", "443V6") if ipv6 else ("443",),
        tcp=("TCP", "TCP6") if ipv6 else ("TCP",),
        crt_list=certificates,
        strict_sni=False,
        own_service=layout.own_socket,
        http3=(EVERYWHERE if ipv6 else EVERYWHERE[:1]) if visitors.http3 and certificates else (),
        access_log=visitors.access_log is not None,
    )
    log.info("haproxy can", version=capabilities.version, bandwidth=capabilities.bandwidth, quic=capabilities.quic)
    return ProxyReconciler(Haproxy(layout), frontend, layout, capabilities=capabilities)


def _firewalls(
    station: Station, model: GatewayModel, endpoints: tuple[str, ...], *, manage: bool, https: bool
) -> Firewalls:
    traffic = _traffic(model, station.interface, endpoints, https=https)
    firewalls = Firewalls(traffic, manage, station.emit.report_soon, station.emit.warn)
    station.emit.found = firewalls.errors
    return firewalls


def _traffic(model: GatewayModel, interface: str, endpoints: tuple[str, ...], *, https: bool) -> GatewayTraffic:
    versions = sorted({parse_endpoint(endpoint).address.version for endpoint in endpoints}) or [4]
    doors = (80, 443) if https else (80,)
    return GatewayTraffic(model, interface, doors, _port(endpoints), tuple(versions))


def _port(endpoints: tuple[str, ...]) -> int:
    return parse_endpoint(endpoints[0]).port if endpoints else WIREGUARD_PORT


if __name__ == "__main__":
    main()
