"""What an agent wants: ports on its tunnel address to private targets, and which gateways may use them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from kakuremichi.dataplane.nftables.agent_rules import agent_skeleton
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
)
from kakuremichi.dataplane.nftables.marks import Proto, target_number
from kakuremichi.model.addresses import IPAddress


@dataclass(frozen=True, slots=True)
class Target:
    """A private service as the agent reaches it. Behind a range, `port` is the range's first."""

    address: IPAddress
    port: int


@dataclass(frozen=True, slots=True)
class AgentTable:
    """Everything the agent's table holds. `own` are ports that the agent itself serves on its tunnel address."""

    interface: str  # WireGuard's
    address: IPv4Address  # the agent's in the tunnel
    gateways: frozenset[IPAddress]  # source addresses that are let in
    address6: IPv6Address | None = None
    own: frozenset[tuple[Proto, int]] = frozenset()
    targets: Mapping[tuple[Proto, Ports], Target] = field(default_factory=dict)


def agent_desired(table: AgentTable) -> Desired:
    """The whole table; a target that cannot be expressed is in `refused` and does not hinder the others."""
    items: dict[int, Elements] = {TABLE_WIDE: agent_wide_elements(table.gateways, table.own)}
    refused = []
    for (proto, ports), target in table.targets.items():
        number = target_number(proto, ports.first)
        try:
            items[number] = agent_elements(table, proto, ports, target)
        except ItemRefusedError as error:
            refused.append(Refusal(number, str(error)))
    return Desired(agent_skeleton(table.interface, table.address, table.address6), items, tuple(refused))


def agent_elements(table: AgentTable, proto: Proto, ports: Ports, target: Target) -> Elements:
    """The elements of one target (its owner is `target_number(proto, ports.first)`).

    :class:`ItemRefusedError` if it cannot be expressed. Of `table` only the addresses are looked at.
    """
    what = f"target {proto} {ports}"
    check_ports(what, ports)
    check_ports(f"{what}: private", Ports.of(target.port))
    if not ports.single and target.port != ports.first:
        raise ItemRefusedError(f"{what}: would begin at port {target.port}, but a range keeps its numbers")
    _check_address(what, table, target.address)
    number = target_number(proto, ports.first)
    return frozenset(flow_elements(number, proto, ports, target.address, target.port))


def agent_wide_elements(gateways: Iterable[IPAddress], own: Iterable[tuple[Proto, int]]) -> Elements:
    """The elements of owner 0."""
    return frozenset(
        {Element(f"gateways{gateway.version}", (str(gateway),)) for gateway in gateways}
        | {Element("own", (proto, str(port))) for proto, port in own}
    )


def _check_address(what: str, table: AgentTable, address: IPAddress) -> None:
    if not is_routable(address):
        raise ItemRefusedError(f"{what}: {address} is no address of a service")
    if address in (table.address, table.address6):
        raise ItemRefusedError(f"{what}: {address} is the agent's own address in the tunnel")
    if isinstance(address, IPv6Address):
        if address.is_link_local:
            raise ItemRefusedError(f"{what}: {address} is link-local and means nothing without its interface")
        if table.address6 is None:
            raise ItemRefusedError(f"{what}: {address} is IPv6, but the agent's host has no IPv6")
