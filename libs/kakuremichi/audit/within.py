"""The part of a state that lies within somebody's limits. Pure."""

from collections.abc import Iterable, Iterator

from kakuremichi.audit.rows import (
    FreedHost,
    FreedSlot,
    JoinToken,
    Node,
    NodeKey,
    NodeRenewal,
    Pool,
    RevokedIdentity,
    Row,
    Service,
    ServiceTarget,
    SpentSerial,
)
from kakuremichi.model.limits import Limits


def within(rows: Iterable[Row], limits: Limits) -> list[Row]:
    """Those of `rows`, which are one whole state: a target is seen with its service, a key with its node."""
    known = list(rows)
    if not limits.limited:
        return known
    nodes, services = frozenset(_nodes(known, limits)), frozenset(_services(known, limits))
    return [row for row in known if _is_seen(row, limits, nodes, services)]


def _nodes(rows: Iterable[Row], limits: Limits) -> Iterator[str]:
    for row in rows:
        if isinstance(row, Node) and limits.has_placed(row.role, row.pool, row.node_id):
            yield row.node_id


def _services(rows: Iterable[Row], limits: Limits) -> Iterator[str]:
    agents: dict[str, tuple[str, ...]] = {}
    for row in rows:
        if isinstance(row, ServiceTarget):
            agents[row.service_id] = (*agents.get(row.service_id, ()), row.agent)
    for row in rows:
        if not isinstance(row, Service) or not limits.has_pool(row.pool):
            continue
        if limits.has_targets(agents.get(row.service_id, ())):
            yield row.service_id


def _is_seen(row: Row, limits: Limits, nodes: frozenset[str], services: frozenset[str]) -> bool:
    match row:
        case Service() | ServiceTarget() | FreedHost():
            # A name that rests is its former service's: of one that is gone nothing tells any more whose it was.
            return row.service_id in services
        case Node() | NodeKey() | NodeRenewal() | SpentSerial() | RevokedIdentity():
            return row.node_id in nodes
        case JoinToken():
            return limits.has_pool(row.pool) and limits.has_joining(row.role, row.node_id)
        case Pool() | FreedSlot():
            return limits.has_pool(row.pool)
    return False
