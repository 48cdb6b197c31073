"""What a gateway wants: public ports to agents by DNAT, doors to HAProxy, and who may come."""

from collections.abc import Iterable, Mapping
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
    check_ports,
    flow_elements,
    is_routable,
    mark_text,
    network_text,
)
from kakuremichi.dataplane.nftables.gateway_rules import gateway_skeleton
from kakuremichi.dataplane.nftables.marks import SERVICE_NUMBERS, Proto
from kakuremichi.model.addresses import IPNetwork


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


@dataclass(frozen=True, slots=True)
class GatewayTable:
    """Everything the gateway's table holds. `doors` maps public TCP ports to the local ports of HAProxy's binds.

    `guarded` ports of this host are reached only through a door or from the host itself.
    """

    interface: str  # WireGuard's
    slot: int  # 1 to 99
    doors: Mapping[int, int] = field(default_factory=dict)
    guarded: frozenset[tuple[Proto, int]] = frozenset()
    services: Mapping[int, L4Service] = field(default_factory=dict)


def gateway_desired(table: GatewayTable) -> Desired:
    """The whole table; a service that cannot be expressed is in `refused` and does not hinder the others."""
    items: dict[int, Elements] = {}
    refused = []
    for number, service in table.services.items():
        try:
            items[number] = gateway_elements(service)
        except ItemRefusedError as error:
            refused.append(Refusal(number, str(error)))
    items[TABLE_WIDE] = gateway_wide_elements(table.doors, table.guarded)
    return Desired(gateway_skeleton(table.interface, table.slot), items, tuple(refused))


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
    elements: set[Element] = set()
    for target in (service.target, service.target6):
        if target is None:
            continue
        if not is_routable(target) or target.is_loopback:
            raise ItemRefusedError(f"{what}: target {target} is no agent's address")
        elements |= flow_elements(service.number, service.proto, service.ports, target, service.agent_port)
    return frozenset(elements | _admission(service)) if elements else frozenset()


def gateway_wide_elements(doors: Mapping[int, int], guarded: Iterable[tuple[Proto, int]]) -> Elements:
    """The elements of owner 0."""
    return frozenset(
        {Element("doors", (str(public),), (str(local),)) for public, local in doors.items()}
        | {Element("guarded", (proto, str(port))) for proto, port in guarded}
    )


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
