"""`kakuremichi-agent`: WireGuard and nftables of one site. Wiring only."""

from contextlib import AsyncExitStack
from functools import partial
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface
from pathlib import Path

import click
import structlog

from kakuremichi.dataplane.links.desired import LOOPBACK6, IPInterface, LinkState
from kakuremichi.dataplane.links.kernel import KernelLink
from kakuremichi.dataplane.links.sysctl import FORWARDING, ensure, per_interface, without_ipv6
from kakuremichi.dataplane.nftables.device import NftTable
from kakuremichi.dataplane.nftables.reconcile import Reconciler
from kakuremichi.dataplane.wireguard.desired import Peer
from kakuremichi.dataplane.wireguard.engine import old_wireguard_go, open_device
from kakuremichi.dataplane.wireguard.reconcile import PeerReconciler
from kakuremichi.model.addresses import (
    SUBNET6_PREFIX,
    IPNetwork,
    agent_address,
    host_network,
    parse_network,
    tunnel_address6,
    tunnel_network6,
)
from kakuremichi.model.ids import NodeId
from kakuremichi.node.cli import NodeOptions, node_command
from kakuremichi.node.direct import own_exchange
from kakuremichi.node.firewalls import Firewalls, manage_firewall_option
from kakuremichi.node.greeting import Greeter
from kakuremichi.node.key import hold_key, make_key
from kakuremichi.node.metrics import NodeMetrics
from kakuremichi.node.peering import PeerSection, RouteSection
from kakuremichi.node.rotation import Rotator
from kakuremichi.node.run import Station, host_networks
from kakuremichi.reconcile.holding import Holding
from kakuremichi.runtime.config import ConfigError
from kakuremichi.wire import subjects
from kakuremichi_agent.allow import Allow, default_allow, read_allow
from kakuremichi_agent.direct import DirectLoop
from kakuremichi_agent.model import AgentModel
from kakuremichi_agent.names import Resolver
from kakuremichi_agent.sections import Agent, TargetSection
from kakuremichi_agent.traffic import AgentTraffic

log = structlog.get_logger()

KEEPALIVE_S = 25


@node_command("agent")
@click.option("--allow", "allow_file", type=click.Path(path_type=Path), help="File of what may be published from here.")
@manage_firewall_option
async def main(options: NodeOptions, allow_file: Path | None, *, manage_firewall: bool) -> None:
    """Carry the visitors of the gateways to the private services of this site."""
    networks = await host_networks(options.interface)
    enrolment = await options.enrolled(networks=tuple(networks))
    node = enrolment.node
    subnet = parse_network(node.subnet)
    if not isinstance(subnet, IPv4Network):
        raise ConfigError((f"certificate: subnet {node.subnet} is not IPv4",))
    station = Station.open(options.state, enrolment, options.interface)
    async with AsyncExitStack() as stack:
        device = await open_device(options.interface, station.alias, uapi_directory=options.uapi_directory)
        stack.callback(device.close)
        await hold_key(device, station.alias, options.state, enrolment, listen_port=0)
        link = await stack.enter_async_context(KernelLink(options.interface))
        sysctls = FORWARDING | per_interface(options.interface, route_localnet="1", rp_filter="2")
        warnings = [(setting.name, setting.error) for setting in ensure(sysctls) if setting.error]
        if lacks := without_ipv6(options.interface):
            warnings.append(("ipv6", lacks))
        if slow := await old_wireguard_go(options.interface):
            warnings.append(("engine", slow))
        feeds = station.open_feeds((subjects.fleet_feed(node.pool), subjects.agent_feed(node.node_id)))
        tunnel6 = tunnel_network6(enrolment.deployment)
        allow = _allow(allow_file, networks, subnet, tunnel6)
        model = AgentModel(
            station.verifier, node.pool, subnet, allow, None if lacks else tunnel6, epochs=station.epochs.epochs
        )
        agent = _sections(model, feeds.holdings, PeerReconciler(device), link, station.alias)
        agent.direct = station.direct
        gateways = station.direct_peers("gateway", agent.listed, model.check)
        greeter = Greeter(device, agent.peers, station.emit.redo)
        rotator = Rotator(device, options.state, enrolment, options.rotate_every_s, greeter.greet_all)
        direct = DirectLoop(
            device, model, gateways, feeds.holdings[0].records, lambda: own_exchange(options.state),
            rotator.serve, station.emit.warn, missed=rotator.doubt, greet=greeter.greet,
        )  # fmt: skip
        traffic = AgentTraffic(model, options.interface)
        firewalls = Firewalls(traffic, manage_firewall, station.emit.report_soon, station.emit.warn)
        station.emit.found = firewalls.errors
        log.info("agent starts", node=node.node_id, pool=node.pool, subnet=node.subnet)
        resolver = Resolver(model.names, station.emit.redo, options.state.directory / "names")
        new_key = partial(make_key, device, options.state, enrolment, listen_port=0)
        await station.run(
            agent, feeds, warnings, rotator, new_key=new_key, metrics=NodeMetrics(options.metrics_listen),
            silence=direct.run, greet=greeter.run, firewalls=firewalls.run, names=resolver.run,
        )  # fmt: skip


def _sections(
    model: AgentModel, holdings: tuple[Holding, ...], peers: PeerReconciler, link: KernelLink, alias: str
) -> Agent:
    address = agent_address(model.subnet)
    address6 = tunnel_address6(model.tunnel6, address) if model.tunnel6 is not None else None

    def peer_of(gateway: NodeId) -> Peer | None:
        facts = model.gateways.get(gateway)
        if facts is None:
            return None
        allowed = frozenset(map(host_network, facts.addresses))
        return Peer(facts.public_key, allowed, facts.endpoint, KEEPALIVE_S)

    def base() -> LinkState:
        addresses: set[IPInterface] = {IPv4Interface((address, model.subnet.prefixlen))}
        if address6 is None:
            return LinkState(alias, addresses=frozenset(addresses))
        addresses.add(IPv6Interface((address6, SUBNET6_PREFIX)))
        return LinkState(alias, addresses=frozenset(addresses), routes=frozenset({LOOPBACK6}))

    targets = TargetSection(model, Reconciler(NftTable()), link.name, address, address6)
    return Agent(
        model,
        holdings,
        PeerSection("gateway-peer", peers, peer_of),
        RouteSection("gateway-peer", link, lambda _node: None, base),
        targets,
    )


def _allow(file: Path | None, networks: list[str], *tunnel: IPNetwork) -> Allow:
    if file is not None:
        return read_allow(file.read_text(), *tunnel)
    return default_allow([parse_network(text) for text in networks], *tunnel)


if __name__ == "__main__":
    main()
