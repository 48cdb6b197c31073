"""Who becomes a node and with which address; who stops being one. Pure."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network, ip_address, ip_network

from msgspec import structs

from kakuremichi.model.addresses import (
    WIREGUARD_PORT,
    AddressRefusedError,
    Endpoint,
    IPNetwork,
    parse_endpoint,
    parse_network,
)
from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import KeyRefusedError, check_public_key, key_text
from kakuremichi.wire.codec import encode
from kakuremichi.wire.commands import CreateToken, EnrolNode, RemoveNode
from kakuremichi.wire.facts import NodeEnrolled, NodeRemoved, NodeRevoked, TokenCreated
from kakuremichi.wire.identity import Certificate
from kakuremichi.wire.records import Revocation
from kakuremichi.wire.signing import Signed
from kakuremichi.wire.subjects import agent_feed, fleet_feed, pool_feed
from kakuremichi_registry.allocator import ExhaustedError, lowest_free_subnet, next_slot, overlaps
from kakuremichi_registry.contexts import EnrolContext, KnownNode, RemoveContext, ServiceRow, TokenContext, TokenRow
from kakuremichi_registry.items import Item, gone, put
from kakuremichi_registry.publishing import route
from kakuremichi_registry.refusal import Refusal, conflict, exhausted, invalid, not_found
from kakuremichi_registry.terms import check_match
from kakuremichi_registry.trust import valid_from

ANYTHING = ("*",)  # the trust keys lie on the server: hosts and ports are narrowed by the registry alone


@dataclass(frozen=True, slots=True)
class Enrollee:
    """An enrolment request whose form is sound."""

    networks: tuple[IPNetwork, ...]
    endpoints: tuple[Endpoint, ...]


def token_refused() -> Refusal:
    """One answer for unknown, used and expired: a guesser learns nothing."""
    return Refusal(403, "token-refused", "join token: unknown, used or expired; ask for a new one")


def create_token(command: CreateToken, seen: TokenContext, now: datetime) -> tuple[str, datetime, TokenCreated]:
    """(token id, end, fact) of a new join token."""
    _check_not_revoked(seen.node)
    if seen.node is not None and seen.node.live:
        raise conflict(
            "exists",
            f"{seen.node.role} {command.node_id}: is enrolled; remove it first, or choose another name",
            field="node_id",
            holders=(command.node_id,),
        )
    token_id = command.secret_hash.hex()[:12]
    expires_at = now + timedelta(seconds=command.ttl_s)
    fact = TokenCreated(
        token_id=token_id, role=command.role, node_id=command.node_id, pool=command.pool, expires_at=instant(expires_at)
    )
    return token_id, expires_at, fact


def _check_not_revoked(node: KnownNode | None) -> None:
    if node is not None and node.revoked:
        raise conflict(
            "revoked",
            f"{node.role} {node.node_id}: is revoked; remove it first, or choose another name",
            field="node_id",
            holders=(node.node_id,),
        )


def instant(at: datetime) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def check_form(command: EnrolNode) -> Enrollee:
    """All that can be said before the token is looked up; :class:`Refusal` names the field."""
    try:
        check_public_key(command.sealing_key)
    except KeyRefusedError as error:
        raise invalid("sealing_key", f"sealing key: {error}") from error
    networks = []
    for text in command.networks:
        try:
            network = parse_network(text)
        except AddressRefusedError as error:
            raise invalid("networks", f"networks: {error}") from error
        if network.prefixlen == 0:
            raise invalid("networks", f"network {text}: the default route is no network of the site, leave it out")
        networks.append(network)
    try:
        endpoints = tuple(parse_endpoint(text) for text in command.endpoints)
    except AddressRefusedError as error:
        raise invalid("endpoints", f"endpoints: {error}") from error
    return Enrollee(tuple(networks), endpoints)


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What is to be written once the certificate is signed."""

    certificate: Certificate
    fact: NodeEnrolled
    networks: tuple[IPNetwork, ...]
    endpoints: tuple[Endpoint, ...]


def decide(
    command: EnrolNode, enrollee: Enrollee, seen: EnrolContext, now: float, *, grants: tuple[str, ...] = ANYTHING
) -> Enrolment:
    """The node's certificate: role, pool and name are the token's, the address is the lowest that is free.

    `grants` are its hosts and ports: with offline trust keys none, until somebody signs for more.
    """
    token = seen.token
    if token is None:
        raise token_refused()
    _check_not_revoked(seen.node)
    if seen.node is not None and seen.node.live:
        raise conflict("exists", f"{seen.node.role} {token.node_id}: is enrolled already", holders=(token.node_id,))
    if seen.identity_holder is not None:
        raise conflict(
            "identity-taken",
            f"identity key: belongs or belonged to node {seen.identity_holder}; a node makes its own",
            field="identity_key",
            holders=(seen.identity_holder,),
        )
    slot, subnet, endpoints = _place(command, token, enrollee, seen)
    not_before, not_after = valid_from(now)
    certificate = Certificate(
        node_id=token.node_id, role=token.role, pool=token.pool, slot=slot, subnet=subnet, subnet6="",
        identity_key=command.identity_key, sealing_key=command.sealing_key, hosts=grants, ports=grants,
        serial=max(seen.node.serial if seen.node is not None else 0, seen.spent_serial) + 1,
        not_before=not_before, not_after=not_after,
    )  # fmt: skip
    networks = tuple(sorted(set(map(str, enrollee.networks))))
    fact = NodeEnrolled(
        node_id=token.node_id, role=token.role, pool=token.pool, slot=slot, subnet=subnet,
        identity_key=key_text(command.identity_key), serial=certificate.serial, token_id=token.token_id,
        networks=networks,
    )  # fmt: skip
    return Enrolment(certificate, fact, enrollee.networks, endpoints)


def _place(
    command: EnrolNode, token: TokenRow, enrollee: Enrollee, seen: EnrolContext
) -> tuple[int, str, tuple[Endpoint, ...]]:
    """(slot, subnet, endpoints): a gateway has a slot and endpoints, an agent a subnet."""
    try:
        if token.role == "gateway":
            _check_gateway_networks(token, enrollee.networks, seen)
            slot = next_slot(seen.slots, {freed.slot: freed.freed_at for freed in seen.freed_slots})
            return slot, "", enrollee.endpoints or _endpoint_of(command.source)
        if enrollee.endpoints:
            raise invalid("endpoints", "endpoints: an agent has none, it opens no port at its site")
        avoid: Sequence[IPNetwork] = [*enrollee.networks, *map(ip_network, seen.gateway_networks)]
        pools = [IPv4Network(network) for network in seen.networks]
        return 0, str(lowest_free_subnet(pools, [at for _, at in seen.subnets], avoid)), ()
    except ExhaustedError as error:
        raise exhausted(str(error)) from error


def _check_gateway_networks(token: TokenRow, networks: Sequence[IPNetwork], seen: EnrolContext) -> None:
    held = overlaps(seen.subnets, networks)
    if held:
        raise conflict(
            "subnet-conflict",
            f"gateway {token.node_id}: its networks overlap the subnets of agents {', '.join(held)}",
            field="networks",
            holders=held,
        )


def _endpoint_of(source: str) -> tuple[Endpoint, ...]:
    """A gateway that names no endpoint is reached where its request came from."""
    try:
        return (Endpoint(ip_address(source), WIREGUARD_PORT),)
    except ValueError:
        return ()


def logged(enrolment: Enrolment, signed: Signed, *, pending: bool) -> NodeEnrolled:
    """The fact with the certificate as it was signed: the log alone tells what the tables hold."""
    return structs.replace(
        enrolment.fact, endpoints=tuple(map(str, enrolment.endpoints)), pending=pending,
        certificate=b64encode(encode(signed)).decode(),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Removal:
    serial: int
    epoch: int
    services: tuple[ServiceRow, ...]
    items: tuple[Item, ...]
    fact: NodeRemoved | NodeRevoked
    readers: dict[str, tuple[NodeId, ...]]


def remove(command: RemoveNode, seen: RemoveContext) -> Removal:
    """The write that removes a node: its revocation, its tombstones, its services without a target."""
    node = seen.node
    if node is None or not node.live or node.role != command.role:
        raise not_found("unknown-node", f"{command.role} {command.node_id}: is not enrolled", field="node_id")
    check_match(command, f"{node.role} {node.node_id}", node.updated_seq)
    names = tuple(service.service_id for service in seen.services)
    if names and not command.cascade:
        raise conflict(
            "has-services",
            f"agent {node.node_id}: services {', '.join(names)} lead to it;"
            " unpublish them, or remove it with cascade and they stay without a target",
            holders=names,
        )
    items, readers = cut_off(node, seen)
    fact = NodeRemoved(node_id=node.node_id, role=node.role, pool=node.pool, epoch=node.epoch, services=names)
    return Removal(node.serial, node.epoch, seen.services, items, fact, readers)


def cut_off(node: KnownNode, seen: RemoveContext) -> tuple[tuple[Item, ...], dict[str, tuple[NodeId, ...]]]:
    """What its peers are told, and who they are. The revocation comes first: they cut before they tidy up."""
    shared = fleet_feed(node.pool) if node.role == "gateway" else pool_feed(node.pool)
    items: list[Item] = []
    if node.epoch:
        items.append(put(shared, Revocation(node_id=node.node_id, epoch=node.epoch)))
    items.append(gone(shared, f"{node.role}-peer", node.node_id))
    for service in seen.services:
        items.append(put(shared, route(_without(service, node.node_id))))
        items += [
            gone(agent_feed(node.node_id), "target", target.target_id)
            for target in service.targets
            if target.agent == node.node_id
        ]
    items.append(
        gone(pool_feed(node.pool) if node.role == "gateway" else agent_feed(node.node_id), "rotate", node.node_id)
    )
    return tuple(items), {shared: seen.agents if node.role == "gateway" else seen.gateways}


def _without(service: ServiceRow, agent: str) -> ServiceRow:
    return structs.replace(service, targets=tuple(t for t in service.targets if t.agent != agent))
