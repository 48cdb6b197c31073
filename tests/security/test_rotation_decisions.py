"""Who may be asked for a new key, and what is written for it. Pure."""

from typing import Any

import pytest

from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import PrivateKey
from kakuremichi.wire.codec import encode
from kakuremichi.wire.commands import RotateNode
from kakuremichi.wire.identity import Role
from kakuremichi.wire.records import Rotate, decode_record
from kakuremichi_registry.contexts import KnownNode, UpkeepContext
from kakuremichi_registry.refusal import Refusal
from kakuremichi_registry.upkeep import rotate

KEY = PrivateKey(b"k" * 32).public()


def known(role: Role = "agent", **changes: Any) -> KnownNode:
    fields: dict[str, Any] = {"node_id": "n1", "role": role, "pool": "main", "live": True, "serial": 1, "epoch": 7}
    return KnownNode(**fields | changes)


def seen(node: KnownNode | None, **changes: Any) -> UpkeepContext:
    fields: dict[str, Any] = {"log_id": "log-1", "public_key": KEY, "quarantined": False, "lacking": ()}
    return UpkeepContext(node=node, **fields | changes)


def asked(role: Role = "agent") -> RotateNode:
    return RotateNode(actor="admin", node_id=NodeId("n1"), role=role)


@pytest.mark.parametrize(("role", "feed"), [("agent", "feed.agent.n1"), ("gateway", "feed.pool.main")])
def test_the_node_reads_in_its_own_feed_which_key_is_to_go(role: Role, feed: str) -> None:
    decided = rotate(asked(role), seen(known(role)))

    (item,) = decided.items
    record = decode_record(item.record)
    assert isinstance(record, Rotate)
    assert (item.feed, item.path, record.public_key) == (feed, "rotate/n1", KEY)
    assert decided.readers == {feed: ("n1",)}
    assert decided.fact.request_id == record.request_id
    assert encode(record) == item.record


def test_two_requests_are_two_records() -> None:
    first, second = (rotate(asked(), seen(known())).items[0].record for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    ("context", "status", "code"),
    [
        (seen(None), 404, "unknown-node"),
        (seen(known("gateway")), 404, "unknown-node"),
        (seen(known(live=False)), 404, "unknown-node"),
        (seen(known(live=False, revoked=True)), 404, "unknown-node"),
        (seen(known(), public_key=None), 409, "not-announced"),
        (seen(known(), quarantined=True), 409, "quarantined"),
        (seen(known(), lacking=("gw2",)), 409, "unsupported"),
    ],
)
def test_every_refusal_has_its_name(context: UpkeepContext, status: int, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        rotate(asked(), context)
    assert (refused.value.problem.status, refused.value.problem.code) == (status, code)
