"""What people do to nodes that are enrolled: revoke, forget, rotate, release. Pure."""

import secrets
from dataclasses import dataclass

from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import key_text
from kakuremichi.wire.commands import ReleaseNode, RemoveNode, RevokeNode, RotateNode
from kakuremichi.wire.facts import NodeReleased, NodeRemoved, NodeRevoked, RotationRequested
from kakuremichi.wire.identity import Role
from kakuremichi.wire.records import TAGS, Rotate
from kakuremichi.wire.subjects import agent_feed, pool_feed
from kakuremichi_registry.contexts import KnownNode, RemoveContext, UpkeepContext
from kakuremichi_registry.enrolment import Removal, cut_off
from kakuremichi_registry.items import Item, put
from kakuremichi_registry.refusal import Refusal, conflict, not_found
from kakuremichi_registry.terms import check_match

ROTATE_TAG = next(tag for tag in TAGS if tag.startswith("rotate."))


def revoke(command: RevokeNode, seen: RemoveContext) -> Removal:
    """The write that cuts a node off: as its removal, but its services never stand in the way."""
    node = _of_role(seen.node, command.role, command.node_id)
    if node.revoked:
        raise conflict("revoked", f"{command.role} {command.node_id}: is revoked already", holders=(command.node_id,))
    if not node.live:
        raise _unknown(command.role, command.node_id)
    check_match(command, f"{node.role} {node.node_id}", node.updated_seq)
    items, readers = cut_off(node, seen)
    names = tuple(service.service_id for service in seen.services)
    fact = NodeRevoked(
        node_id=node.node_id, role=node.role, pool=node.pool, epoch=node.epoch,
        identity_key=node.identity_key, services=names,
    )  # fmt: skip
    return Removal(node.serial, node.epoch, seen.services, items, fact, readers)


def forget(command: RemoveNode, node: KnownNode) -> NodeRemoved:
    """A revoked node is removed: its name may be used again. It has nothing left that could be taken away."""
    if node.role != command.role:
        raise _unknown(command.role, command.node_id)
    check_match(command, f"{node.role} {node.node_id}", node.updated_seq)
    return NodeRemoved(node_id=node.node_id, role=node.role, pool=node.pool, epoch=node.epoch, services=())


@dataclass(frozen=True, slots=True)
class Rotation:
    epoch: int
    items: tuple[Item, ...]
    fact: RotationRequested
    readers: dict[str, tuple[NodeId, ...]]


def rotate(command: RotateNode, seen: UpkeepContext) -> Rotation:
    """The write that asks a node for another key than it has now."""
    node = _enrolled(seen.node, command.role, command.node_id)
    check_match(command, f"{node.role} {node.node_id}", node.updated_seq)
    if seen.public_key is None:
        raise conflict("not-announced", f"{node.role} {node.node_id}: has announced no key that could be replaced")
    if seen.quarantined:
        raise conflict("quarantined", f"{node.role} {node.node_id}: its announcements are refused; release it first")
    if seen.lacking:
        raise conflict(
            "unsupported",
            f"nodes {', '.join(seen.lacking)}: do not understand {ROTATE_TAG}; bring them to this release first",
            holders=seen.lacking,
        )
    request_id = secrets.token_hex(8)
    record = Rotate(node_id=node.node_id, request_id=request_id, public_key=seen.public_key)
    feed = pool_feed(node.pool) if node.role == "gateway" else agent_feed(node.node_id)
    fact = RotationRequested(
        node_id=node.node_id, role=node.role, pool=node.pool, request_id=request_id,
        public_key=key_text(seen.public_key),
    )  # fmt: skip
    return Rotation(node.epoch, (put(feed, record),), fact, {feed: (node.node_id,)})


def release(command: ReleaseNode, seen: UpkeepContext) -> NodeReleased:
    node = _enrolled(seen.node, command.role, command.node_id)
    check_match(command, f"{node.role} {node.node_id}", node.updated_seq)
    if not seen.quarantined:
        raise conflict("not-quarantined", f"{node.role} {node.node_id}: is not quarantined, there is nothing to end")
    return NodeReleased(node_id=node.node_id, role=node.role, pool=node.pool)


def _enrolled(node: KnownNode | None, role: Role, name: NodeId) -> KnownNode:
    found = _of_role(node, role, name)
    if not found.live:
        raise _unknown(role, name)
    return found


def _of_role(node: KnownNode | None, role: Role, name: NodeId) -> KnownNode:
    if node is None or node.role != role:
        raise _unknown(role, name)
    return node


def _unknown(role: Role, name: NodeId) -> Refusal:
    return not_found("unknown-node", f"{role} {name}: is not enrolled", field="node_id")
