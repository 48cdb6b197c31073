"""The plan of a dry run: items held against what is live."""

import msgspec
from msgspec import Raw

from kakuremichi.model.ids import NodeId
from kakuremichi.model.options import Options, Upstream
from kakuremichi.wire.codec import encode
from kakuremichi.wire.commands import Plan
from kakuremichi.wire.records import Revocation, RouteWithOptions
from kakuremichi_registry.items import gone, put
from kakuremichi_registry.plans import MOST_NODES, plan
from support.people import tcp_route

POOL, SITE = "feed.pool.main", "feed.agent.site-a"
GW1 = NodeId("gw1")
SSH = tcp_route("ssh", "site-a", 10022)


def rows(found: Plan) -> list[tuple[str, str, str]]:
    return [(change.kind, change.key, change.action) for change in found.changes]


def test_what_is_live_byte_for_byte_and_what_is_gone_already_is_no_change() -> None:
    items = [put(POOL, SSH), gone(POOL, "route", "wiki")]
    assert plan(items, {(POOL, "route/ssh"): encode(SSH)}, {POOL: (GW1,)}).changes == ()


def test_a_route_comes_with_its_ports_and_goes_with_them() -> None:
    added = plan([put(POOL, SSH)], {}, {POOL: (GW1,)})
    assert rows(added) == [("route", "ssh", "add"), ("port", "tcp 10022", "add")]
    assert added.changes[0].what == "tcp 10022 to site-a"
    removed = plan([gone(POOL, "route", "ssh")], {(POOL, "route/ssh"): encode(SSH)}, {POOL: (GW1,)})
    assert rows(removed) == [("route", "ssh", "remove"), ("port", "tcp 10022", "remove")]


def test_a_change_says_which_fields_are_different() -> None:
    live = {(POOL, "route/ssh"): encode(SSH)}
    narrowed = tcp_route("ssh", "site-a", 10022, sources=("198.51.100.0/24",))
    (change,) = plan([put(POOL, narrowed)], live, {POOL: (GW1,)}).changes
    assert (change.action, change.what) == ("change", "tcp 10022 to site-a; different in sources")
    fields = {name: getattr(SSH, name) for name in SSH.__struct_fields__}
    with_options = RouteWithOptions(**fields, options=Raw(encode(Options())))
    (change,) = plan([put(POOL, with_options)], live, {POOL: (GW1,)}).changes
    assert change.what.endswith("different in options")


def test_a_feed_that_nobody_reads_is_left_out() -> None:
    found = plan([put(SITE, Revocation(node_id=GW1, epoch=7)), put(POOL, SSH)], {}, {POOL: ()})
    assert rows(found) == [("route", "ssh", "add"), ("port", "tcp 10022", "add")]
    assert [reader.feed for reader in found.readers] == [POOL]


def test_who_is_cut_off_is_told_first() -> None:
    found = plan(
        [put(POOL, Revocation(node_id=NodeId("site-a"), epoch=7))], {}, {POOL: (GW1,)}, cut=(NodeId("site-a"),)
    )
    assert rows(found) == [("certificate", "site-a", "remove"), ("revocation", "site-a", "add")]
    assert {reader.feed: reader.nodes for reader in found.readers} == {"node.site-a": ("site-a",), POOL: (GW1,)}


def test_more_nodes_than_a_message_names_are_counted() -> None:
    crowd = tuple(NodeId(f"gw{number}") for number in range(MOST_NODES + 5))
    (reader,) = plan([put(POOL, SSH)], {}, {POOL: crowd}).readers
    assert (len(reader.nodes), reader.left_out) == (MOST_NODES, 5)


def test_a_plan_says_whom_a_target_with_ipv6_leaves_out() -> None:
    def told(options: Options) -> str:
        plain = msgspec.structs.asdict(SSH) | {"kind": "udp"}
        record = RouteWithOptions(**plain, options=Raw(encode(options)))
        return plan([put(POOL, record)], {}, {POOL: (GW1,)}).changes[0].what

    assert "the target has IPv6 only, so visitors by IPv4 cannot" in told(Options(upstream=Upstream(ipv6=True)))
    assert "the target has IPv4 only, so visitors by IPv6 cannot" in told(Options())
