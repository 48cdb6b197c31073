"""What a service may be: form, conflicts, and the records that say it to gateways and agents. Pure."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from msgspec import UNSET, Raw, structs

from kakuremichi.model.addresses import AGENT_PORTS
from kakuremichi.model.ids import NodeId
from kakuremichi.model.options import NO_OPTIONS, Options
from kakuremichi.wire.codec import encode
from kakuremichi.wire.commands import PublishService, UnpublishService
from kakuremichi.wire.facts import ServicePublished, ServiceUnpublished, TargetSpec
from kakuremichi.wire.records import IPV6_OF_NAME, Proto, Route, RouteTarget, RouteWithOptions, Target, tag_of
from kakuremichi.wire.subjects import agent_feed, pool_feed
from kakuremichi_registry.contexts import (
    PublishContext,
    ServiceRow,
    TargetRow,
    UnpublishContext,
)
from kakuremichi_registry.forms import Wanted
from kakuremichi_registry.items import Item, gone, put
from kakuremichi_registry.refusal import conflict, exhausted, invalid, not_found
from kakuremichi_registry.targets import has_ipv6, is_name
from kakuremichi_registry.terms import check_match, source_after


@dataclass(frozen=True, slots=True)
class Publication:
    """What is to be written, and what has to be still so when it is."""

    row: ServiceRow
    items: tuple[Item, ...]
    fact: ServicePublished
    seen_seq: int
    unchanged: bool
    readers: dict[str, tuple[NodeId, ...]]


def decide(command: PublishService, wanted: Wanted, seen: PublishContext) -> Publication:
    """The write that publishes `wanted`; :class:`Refusal` if somebody else holds what it needs."""
    check_match(command, f"service {wanted.service_id}", seen.old.updated_seq if seen.old is not None else 0)
    if command.create_only and seen.old is not None:
        raise conflict("exists", f"service {wanted.service_id}: exists already", holders=(wanted.service_id,))
    source = source_after(command, wanted.service_id, seen.old)
    _check_pool(wanted, seen)
    _check_agent(wanted, seen)
    _check_target(seen)
    _check_host_free(wanted, seen)
    _check_ports_free(wanted, seen)
    targets = (_target_row(wanted, seen),)
    row = structs.replace(wanted.row, targets=targets, source=source)
    fact = ServicePublished(
        service_id=row.service_id, pool=row.pool, kind=row.kind, host=row.host, path=row.path,
        first_port=row.first_port, last_port=row.last_port, sources=row.sources, targets=_specs(targets),
        options=UNSET if row.options == NO_OPTIONS else row.options, source=row.source or UNSET,
    )  # fmt: skip
    seen_seq = seen.old.updated_seq if seen.old is not None else 0
    unchanged = seen.old is not None and structs.replace(seen.old, updated_seq=0) == row
    return Publication(row, _items(row, seen.old), fact, seen_seq, unchanged, readers(row, seen.old, seen.gateways))


def withdraw(
    command: UnpublishService, seen: UnpublishContext
) -> tuple[ServiceRow, tuple[Item, ...], ServiceUnpublished]:
    """The write that takes a service away: its row as seen, the items, the fact."""
    service_id, old = command.service_id, seen.old
    if old is None:
        raise not_found("unknown-service", f"service {service_id}: does not exist", field="service_id")
    check_match(command, f"service {service_id}", old.updated_seq)
    source_after(command, service_id, old)
    items = [gone(pool_feed(old.pool), "route", service_id)]
    items += [gone(agent_feed(target.agent), "target", target.target_id) for target in old.targets]
    return old, tuple(items), ServiceUnpublished(service_id=service_id, pool=old.pool)


def route(row: ServiceRow) -> Route:
    """What gateways are told of a service."""
    plain = Route(
        service_id=row.service_id, kind=row.kind, host=row.host, path=row.path,
        first_port=row.first_port, last_port=row.last_port, sources=row.sources,
        targets=tuple(
            RouteTarget(target_id=target.target_id, agent=target.agent, agent_port=target.agent_port)
            for target in row.targets
        ),
    )  # fmt: skip
    addresses = [target.address for target in row.targets]
    if route_tag(row, addresses) == tag_of(Route):
        return plain
    return RouteWithOptions(**structs.asdict(plain), options=Raw(encode(_told_options(row, addresses))))


def route_tag(row: ServiceRow, addresses: Iterable[str]) -> str:
    """Which record says the service: the first version wherever it says all, so that older gateways carry it."""
    wildcard, by_source = row.host.startswith("*."), row.kind == "http" and bool(row.sources)
    more = wildcard or by_source or bool(row.path) or _told_options(row, addresses) != NO_OPTIONS
    return tag_of(RouteWithOptions if more else Route)


def _told_options(row: ServiceRow, addresses: Iterable[str]) -> Options:
    """What was asked for, and the family of the targets: gateways are not told their addresses."""
    if not any(map(has_ipv6, addresses)):
        return row.options
    return structs.replace(row.options, upstream=structs.replace(row.options.upstream, ipv6=True))


def wanted_tag(wanted: Wanted) -> str:
    """:func:`route_tag` before the targets have their place."""
    return route_tag(wanted.row, [wanted.address])


def readers(row: ServiceRow, old: ServiceRow | None, gateways: tuple[NodeId, ...]) -> dict[str, tuple[NodeId, ...]]:
    """Who reads the feeds that a change from `old` to `row` concerns."""
    concerned = [row] if old is None else [row, old]
    feeds = {pool_feed(service.pool): gateways for service in concerned}
    for service in concerned:
        feeds.update({agent_feed(target.agent): (target.agent,) for target in service.targets})
    return feeds


def _specs(targets: Iterable[TargetRow]) -> tuple[TargetSpec, ...]:
    return tuple(
        TargetSpec(target_id=t.target_id, agent=t.agent, agent_port=t.agent_port, address=t.address, port=t.port)
        for t in targets
    )


def _items(row: ServiceRow, old: ServiceRow | None) -> tuple[Item, ...]:
    """Targets and the route; the database leaves out what is live already."""
    items = [put(agent_feed(target.agent), _target(row, target)) for target in row.targets]
    items.append(put(pool_feed(row.pool), route(row)))
    if old is not None:
        kept = {(target.agent, target.target_id) for target in row.targets}
        items += [
            gone(agent_feed(target.agent), "target", target.target_id)
            for target in old.targets
            if (target.agent, target.target_id) not in kept
        ]
        if old.pool != row.pool:
            items.append(gone(pool_feed(old.pool), "route", row.service_id))
    return tuple(items)


def _target(row: ServiceRow, target: TargetRow) -> Target:
    name = target.address if is_name(target.address) else ""
    family = IPV6_OF_NAME if row.options.upstream.ipv6 else ""
    return Target(
        target_id=target.target_id, service_id=row.service_id, proto=target.proto, agent_port=target.agent_port,
        agent_last_port=target.agent_last_port, address=family if name else target.address, name=name, port=target.port,
    )  # fmt: skip


def _check_pool(wanted: Wanted, seen: PublishContext) -> None:
    if not seen.known_pool:
        raise not_found(
            "unknown-pool", f"pool {wanted.row.pool}: does not exist; it begins with its first join token", field="pool"
        )
    if seen.lacking:
        names = tuple(node.node_id for node in seen.lacking)
        raise conflict(
            "unsupported",
            f"gateways {', '.join(names)}: do not understand {wanted_tag(wanted)}; bring them to this release first",
            holders=names,
        )


def _check_agent(wanted: Wanted, seen: PublishContext) -> None:
    agent = wanted.target.agent
    node = next((node for node in seen.nodes if node.node_id == agent), None)
    if node is None or node.role != "agent":
        raise not_found("unknown-agent", f"agent {agent}: is not enrolled", field="targets.agent")
    if node.pool != wanted.row.pool:
        raise invalid("targets.agent", f"agent {agent}: is of pool {node.pool}, the service is of {wanted.row.pool}")
    led_there = seen.old is not None and any(target.agent == agent for target in seen.old.targets)
    if node.quarantined and not led_there:
        raise conflict(
            "quarantined",
            f"agent {agent}: two holders of its identity were seen; nothing new is led there until it is released",
            field="targets.agent",
            holders=(agent,),
        )


def _check_target(seen: PublishContext) -> None:
    for holder in seen.target_holders:
        if holder.role == "gateway":
            raise invalid(
                "targets.address", f"target address {holder.address}: of gateway {holder.node_id} itself, a loop"
            )
        raise invalid(
            "targets.address",
            f"target address {holder.address}: lies in the tunnel subnet of agent {holder.node_id};"
            " write the address that the service has at the site, or 127.0.0.1",
        )


def _check_host_free(wanted: Wanted, seen: PublishContext) -> None:
    host = wanted.row.host
    if seen.host_holder is not None:
        raise conflict(
            "host-taken",
            f"host {host}{wanted.row.path}: held by service {seen.host_holder}",
            field="host",
            holders=(seen.host_holder,),
        )
    if seen.host_elsewhere is not None:
        raise conflict(
            "host-taken",
            f"host {host}: held in another pool by service {seen.host_elsewhere}; a name is of one pool",
            field="host",
            holders=(seen.host_elsewhere,),
        )
    if seen.freed_host is not None:
        raise conflict(
            "host-resting",
            f"host {host}: was given back by service {seen.freed_host.service_id} and rests until"
            f" {seen.freed_host.until}; only that service may take it before",
            field="host",
            holders=(seen.freed_host.service_id,),
        )


def _check_ports_free(wanted: Wanted, seen: PublishContext) -> None:
    row = wanted.row
    if seen.port_holders:
        held = ", ".join(f"{h.service_id} ({_range(h.first_port, h.last_port)})" for h in seen.port_holders)
        raise conflict(
            "port-taken",
            f"{row.kind} port {_range(row.first_port, row.last_port)}: held in pool {row.pool} by service {held}",
            field="first_port",
            holders=tuple(h.service_id for h in seen.port_holders),
        )
    if row.kind == "udp":
        for port in seen.gateway_ports:
            if row.first_port <= port <= row.last_port:
                raise invalid("first_port", f"port {port}: the WireGuard port of a gateway of pool {row.pool}")


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _target_row(wanted: Wanted, seen: PublishContext) -> TargetRow:
    row, agent = wanted.row, wanted.target.agent
    if row.last_port > row.first_port:
        _check_range_free(row, agent, wanted.proto, seen)
        first, last = row.first_port, row.last_port
    else:
        first = last = _agent_port(wanted, seen)
    return TargetRow(
        target_id=wanted.target_id, agent=agent, proto=wanted.proto, agent_port=first, agent_last_port=last,
        address=wanted.address, port=wanted.target.port,
    )  # fmt: skip


def _check_range_free(row: ServiceRow, agent: NodeId, proto: Proto, seen: PublishContext) -> None:
    for held in seen.agent_port_holders:
        raise conflict(
            "agent-port-taken",
            f"{proto} ports {_range(row.first_port, row.last_port)}: a range keeps its numbers on agent {agent},"
            f" where service {held.service_id} holds {_range(held.first_port, held.last_port)}",
            field="first_port",
            holders=(held.service_id,),
        )


def first_choice(wanted: Wanted) -> int:
    """Where to begin to look for an agent port: another place for each target, so writers seldom meet."""
    return AGENT_PORTS[zlib.crc32(wanted.target_id.encode()) % len(AGENT_PORTS)]


def _agent_port(wanted: Wanted, seen: PublishContext) -> int:
    """The port on the agent's tunnel address: the one it had, else the first that is free."""
    for target in seen.old.targets if seen.old is not None else ():
        same = target.agent == wanted.target.agent and target.proto == wanted.proto
        if same and target.agent_port == target.agent_last_port and target.agent_port in AGENT_PORTS:
            return target.agent_port
    if seen.free_agent_port is None:
        raise exhausted(f"agent ports: all {len(AGENT_PORTS)} of agent {wanted.target.agent} are in use")
    return seen.free_agent_port
