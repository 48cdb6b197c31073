"""A state seen through limits: what belongs together is seen together, and what nothing places is nobody's."""

import pytest

from kakuremichi.audit import rows
from kakuremichi.audit.within import within
from kakuremichi.model.limits import Limits


def node(name: str, role: str = "agent", pool: str = "main") -> rows.Node:
    return rows.Node(
        node_id=name, role=role, pool=pool, slot=0, subnet="", identity_key=b"", sealing_key=b"", certificate=b"",
        serial=1, epoch=1, announcement=b"", announced_hash=b"", public_key=b"", endpoints=(), networks=(),
        pending=False, quarantined=False, removed=False, revoked=False,
    )  # fmt: skip


def service(name: str, pool: str = "main") -> rows.Service:
    return rows.Service(
        service_id=name, pool=pool, kind="http", host=f"{name}.example.com", path="", first_port=0, last_port=0,
        sources=(), options={}, updated_seq=1,
    )  # fmt: skip


def target(of: str, agent: str) -> rows.ServiceTarget:
    return rows.ServiceTarget(
        target_id=f"{of}-{agent}", service_id=of, agent=agent, proto="tcp", agent_port=20000, agent_last_port=20000,
        address="127.0.0.1", port=80,
    )  # fmt: skip


def token(name: str, role: str, pool: str = "main") -> rows.JoinToken:
    return rows.JoinToken(token_id=f"of-{name}", role=role, node_id=name, pool=pool, expires_at="", used=False)


STATE: tuple[rows.Row, ...] = (
    rows.Pool(pool="main"), rows.Pool(pool="zoo"),
    node("gw-main", "gateway"), node("site-a"), node("site-b"),
    node("gw-zoo", "gateway", "zoo"), node("site-z", pool="zoo"),
    rows.NodeKey(public_key=b"a", node_id="site-a", epoch=1), rows.NodeKey(public_key=b"z", node_id="site-z", epoch=1),
    rows.NodeRenewal(node_id="site-b", serial=2, certificate=b"", complete=False),
    rows.SpentSerial(node_id="site-z", serial=2),
    rows.RevokedIdentity(identity_key=b"a", node_id="site-a"),
    rows.RevokedIdentity(identity_key=b"b", node_id="site-b"),
    token("site-a", "agent"), token("gw-new", "gateway"), token("site-z", "agent", "zoo"),
    rows.FreedSlot(pool="main", slot=2), rows.FreedSlot(pool="zoo", slot=2),
    service("alpha"), target("alpha", "site-a"),
    service("beta"), target("beta", "site-b"),
    service("both"), target("both", "site-a"), target("both", "site-b"),
    service("bare"),
    service("zeta", "zoo"), target("zeta", "site-z"),
    rows.FreedHost(host="old.example.com", service_id="alpha"),
    rows.FreedHost(host="gone.example.com", service_id="gone"),
    rows.FreedHost(host="far.example.com", service_id="zeta"),
)  # fmt: skip


def keys(limits: Limits) -> set[tuple[str, ...]]:
    return {rows.key_of(row) for row in within(STATE, limits)}


def test_without_limits_everything_is_seen() -> None:
    assert within(STATE, Limits()) == list(STATE)


def test_a_pool_is_seen_whole_and_no_other() -> None:
    seen = within(STATE, Limits(pools=("main",)))
    unseen = [row for row in STATE if row not in seen]
    names = ("zoo", "gw-zoo", "site-z", "zeta", "far", "gone")
    assert all(any(name in str(row) for name in names) for row in unseen)
    assert not any(name in str(row) for name in names for row in seen)


def test_of_one_agent_its_node_and_the_services_that_are_its_alone() -> None:
    assert keys(Limits(pools=("main",), agents=("site-a",))) == {
        ("pool", "main"), ("node", "gw-main"), ("node", "site-a"), ("node_key_history", "YQ=="),
        ("revoked_identity", "YQ=="), ("join_token", "of-site-a"), ("freed_slot", "main", "2"),
        ("service", "alpha"), ("service_target", "alpha-site-a"), ("freed_host", "old.example.com"),
    }  # fmt: skip


@pytest.mark.parametrize("agents", [("site-a", "site-b"), ("site-b", "site-a", "nobody")])
def test_a_service_at_two_agents_is_seen_by_who_has_both(agents: tuple[str, ...]) -> None:
    seen = keys(Limits(agents=agents))
    assert {("service", "both"), ("service_target", "both-site-a"), ("service_target", "both-site-b")} <= seen
    assert ("service", "bare") not in seen, "without a target it is nobody's of some agents"


def test_a_kind_of_row_that_is_not_known_is_not_seen() -> None:
    class Strange(rows.Row, frozen=True, kw_only=True, tag="strange"):
        node_id: str

    assert within([node("site-a"), Strange(node_id="site-a")], Limits(agents=("site-a",))) == [node("site-a")]
