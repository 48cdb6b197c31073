"""What a gateway wants: public ports to agents by DNAT, doors to HAProxy, and who may come."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses

from kakuremichi.dataplane.nftables.elements import (
    TABLE_WIDE,
    Desired,
    Element,
    Elements,
    ItemRefusedError,
    Ports,
    Refusal,
    carried_elements,
    check_ports,
    flow_elements,
    is_routable,
    mark_text,
    network_text,
)
from kakuremichi.dataplane.nftables.gateway_rules import gateway_skeleton
from kakuremichi.dataplane.nftables.guards import GUARDS, Guards
from kakuremichi.dataplane.nftables.limits import MAX_BANDWIDTH
from kakuremichi.dataplane.nftables.marks import SERVICE_NUMBERS, Proto
from kakuremichi.model.addresses import IPAddress, IPNetwork
from kakuremichi.model.options import Limits

# Where HAProxy waits, on all addresses of both families, for the visitors of the TCP services that it carries.
TCP_DOOR = 15080
NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class L4Service:
    """A TCP or UDP service. Visitors of a family without a target are not touched: HAProxy may have a door for them."""

    number: int  # 1 to 2^23 - 1, unique on this gateway and kept over restarts
    proto: Proto
    ports: Ports  # public
    agent_port: int  # the first one of a range, which keeps its numbers
    target: IPv4Address | None = None  # the agent's address in the tunnel
    target6: IPv6Address | None = None
    sources: frozenset[IPNetwork] | None = None  # who may visit; None is everybody, empty is nobody
    limits: Limits = NO_LIMITS
    # Visitors of these families (4, 6) are led to HAProxy's TCP_DOOR and not to a target: another family than the
    # target's, or PROXY protocol. Allow-list, limits and counters are the same.
    carried: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class GatewayTable:
    """Everything the gateway's table holds. `doors` maps public TCP ports to the local ports of HAProxy's binds.

    `guarded` ports of this host are reached only through a door or from the host itself. `listeners` are public ports
    that a program of this host serves: what guards against floods covers them too. `shaped` limits the bytes per
    second that come from an agent's port to this host itself, by (agent's address in the tunnel, agent port).
    """

    interface: str  # WireGuard's
    slot: int  # 1 to 99
    doors: Mapping[int, int] = field(default_factory=dict)
    guarded: frozenset[tuple[Proto, int]] = frozenset()
    services: Mapping[int, L4Service] = field(default_factory=dict)
    listeners: frozenset[tuple[Proto, int]] = frozenset()
    shaped: Mapping[tuple[IPAddress, int], int] = field(default_factory=dict)
    guards: Guards = GUARDS


def gateway_desired(table: GatewayTable) -> Desired:
    """The whole table; a service that cannot be expressed is in `refused` and does not hinder the others."""
    items: dict[int, Elements] = {}
    refused = []
    for number, service in table.services.items():
        try:
            items[number] = gateway_elements(service)
        except ItemRefusedError as error:
            refused.append(Refusal(number, str(error)))
    items[TABLE_WIDE] = gateway_wide_elements(table)
    return Desired(gateway_skeleton(table.interface, table.slot, table.guards), items, tuple(refused))


def gateway_elements(service: L4Service) -> Elements:
    """The elements of one service; :class:`ItemRefusedError` if it cannot be expressed."""
    what = f"service {service.number}"
    if service.number not in SERVICE_NUMBERS:
        raise ItemRefusedError(f"{what}: numbers go from 1 to {SERVICE_NUMBERS.stop - 1}")
    check_ports(what, service.ports)
    check_ports(f"{what}: agent", Ports.of(service.agent_port))
    if not service.ports.single and service.agent_port != service.ports.first:
        raise ItemRefusedError(
            f"{what}: the range {service.ports} would begin at agent port {service.agent_port}, "
            "but a range keeps its numbers"
        )
    if service.carried and service.proto != "tcp":
        raise ItemRefusedError(f"{what}: only tcp can be carried by HAProxy, not {service.proto}")
    elements: set[Element] = set()
    for family, target in ((4, service.target), (6, service.target6)):
        if family in service.carried:
            elements |= carried_elements(service.number, family, service.ports, TCP_DOOR)
            continue
        if target is None:
            continue
        if not is_routable(target) or target.is_loopback:
            raise ItemRefusedError(f"{what}: target {target} is no agent's address")
        elements |= flow_elements(service.number, service.proto, service.ports, target, service.agent_port)
    if not elements:
        return frozenset()
    returned = Element("returned", (mark_text(service.number),))
    return frozenset(elements | {returned} | _admission(service) | _limits(what, service))


def gateway_wide_elements(table: GatewayTable) -> Elements:
    """The elements of owner 0. Of `table` the services are not looked at."""
    for (address, port), limit in table.shaped.items():
        check_bandwidth(f"target {address} port {port}", limit)
    return frozenset(
        {Element("doors", (str(public),), (str(local),)) for public, local in table.doors.items()}
        | {Element("guarded", (proto, str(port))) for proto, port in table.guarded}
        | {Element("listeners", (proto, str(port))) for proto, port in table.listeners}
        | {
            Element("shaped" if address.version == 4 else "shaped6", (str(address), str(port)), (str(limit),))
            for (address, port), limit in table.shaped.items()
        }
    )


def _limits(what: str, service: L4Service) -> set[Element]:
    mark, limits = mark_text(service.number), service.limits
    if limits.bandwidth_per_client:
        raise ItemRefusedError(f"{what}: limits.bandwidth_per_client is of http; {service.proto} has bandwidth in all")
    wanted = {
        "rate": limits.rate,
        "conns": limits.connections,
        "client_rate": limits.rate_per_client,
        "client_conns": limits.connections_per_client,
    }
    elements = {Element(name, (mark,), (str(limit),)) for name, limit in wanted.items() if limit}
    if elements:
        elements |= {Element("limited", (mark,)), Element("refused", (mark,))}
    if limits.bandwidth:
        check_bandwidth(what, limits.bandwidth)
        elements.add(Element("bandwidth", (mark,), (str(limits.bandwidth),)))
    return elements


def check_bandwidth(what: str, limit: int) -> None:
    """:class:`ItemRefusedError` unless the kernel can count so many bytes a second."""
    if not 0 < limit <= MAX_BANDWIDTH:
        raise ItemRefusedError(f"{what}: limits.bandwidth {limit} is not within 1 and {MAX_BANDWIDTH} bytes a second")


def _admission(service: L4Service) -> set[Element]:
    mark = mark_text(service.number)
    if service.sources is None:
        return {Element("open", (mark,))}
    # The kernel refuses overlapping intervals, so each family is brought to its fewest networks.
    fours = collapse_addresses(net for net in service.sources if isinstance(net, IPv4Network))
    sixes = collapse_addresses(net for net in service.sources if isinstance(net, IPv6Network))
    return {Element("allow4", (mark, network_text(net))) for net in fours} | {
        Element("allow6", (mark, network_text(net))) for net in sixes
    }
