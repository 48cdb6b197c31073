"""Dry runs, expected states, sources and filters, by the real registry on PostgreSQL."""

from collections.abc import Sequence

import pytest
from msgspec import UNSET, structs

from kakuremichi.model.ids import NodeId, ServiceId
from kakuremichi.wire.commands import (
    AnyCommand,
    CreateToken,
    Events,
    EventView,
    ListEvents,
    ListNodes,
    ListServices,
    ListTokens,
    Nodes,
    Plan,
    Problem,
    PublishService,
    RemoveNode,
    RevokeNode,
    RotateNode,
    Services,
    Terms,
    Tokens,
    UnpublishService,
    Written,
)
from kakuremichi_registry.store import truth
from support.real_registry import POOL, World, http, tcp

DRY = Terms(dry_run=True)


def on(terms: Terms, command: PublishService | UnpublishService | RemoveNode) -> AnyCommand:
    return structs.replace(command, terms=terms)


def of_source(name: str, command: PublishService, adopt: str | None = None) -> AnyCommand:
    return on(Terms(source=name, adopt=UNSET if adopt is None else adopt), command)


async def written(world: World, command: AnyCommand) -> Written:
    answer = await world.ask(command)
    assert isinstance(answer, Written), answer
    return answer


async def refused(world: World, command: AnyCommand, status: int, code: str) -> Problem:
    answer = await world.ask(command)
    assert isinstance(answer, Problem), answer
    assert (answer.status, answer.code) == (status, code), answer
    return answer


async def planned(world: World, command: AnyCommand) -> Plan:
    """The plan, and nothing has become different by asking for it."""
    before = await everything(world)
    answer = await world.ask(command)
    assert isinstance(answer, Plan), answer
    assert await everything(world) == before
    return answer


async def everything(world: World) -> tuple[object, ...]:
    tables = await truth.read(world.database)
    feeds = await world.database.fetch("select feed, feed_seq, hash, count, sum from feed_head order by feed")
    return tables.seq, tables.hash, tables.rows, [tuple(row) for row in feeds]


def told(plan: Plan) -> set[tuple[str, str, str, str]]:
    readers = {one.feed: one.nodes for one in plan.readers}
    return {(node, change.kind, change.key, change.action) for change in plan.changes for node in readers[change.feed]}


async def items_since(world: World, item_seq: int) -> set[tuple[str, str, bool]]:
    rows = await world.database.fetch("select feed, path, gone from feed_item where item_seq > $1", item_seq)
    return {(row["feed"], row["path"], row["gone"]) for row in rows}


async def last_item(world: World) -> int:
    return int((await world.database.fetch("select item_seq from log_head"))[0][0])


def feeds_of(plan: Plan) -> set[tuple[str, str]]:
    """What the plan says of each feed, without what it adds for people: ports, and nodes that are cut off."""
    return {(one.feed, one.key) for one in plan.changes if one.kind not in ("port", "certificate")}


@pytest.fixture
async def site(registry_world: World) -> World:
    """Two gateways and two agents."""
    await registry_world.enrol("gw1", "gateway")
    await registry_world.enrol("gw2", "gateway", endpoints=("192.0.2.2:51820",))
    await registry_world.enrol("site-a")
    await registry_world.enrol("site-b")
    return registry_world


class TestDryRun:
    async def test_a_new_port_service_opens_its_port_on_every_gateway_and_one_at_its_agent(self, site: World) -> None:
        plan = await planned(site, on(DRY, tcp("ssh", 10022)))
        assert plan.changed
        everywhere = {
            (gateway, kind, key, "add") for gateway in ("gw1", "gw2")
            for kind, key in (("route", "ssh"), ("port", "tcp 10022"))
        }  # fmt: skip
        at_agent = {row for row in told(plan) if row[0] == "site-a"}
        assert told(plan) - at_agent == everywhere
        assert {(kind, action) for _, kind, _, action in at_agent} == {("target", "add"), ("port", "add")}

    @pytest.mark.parametrize("step", ["publish", "change", "move", "unpublish", "remove", "revoke"])
    async def test_the_plan_names_the_items_that_the_write_then_appends(self, site: World, step: str) -> None:
        await written(site, http("wiki"))
        await written(site, tcp("ssh", 10022))
        commands: dict[str, AnyCommand] = {
            "publish": tcp("game", 10100, 10110, udp=True),
            "change": structs.replace(http("wiki"), host="docs.example.com"),
            "move": http("wiki", agent="site-b"),
            "unpublish": UnpublishService(actor="admin", service_id=ServiceId("ssh")),
            "remove": RemoveNode(actor="admin", node_id=NodeId("site-a"), role="agent", cascade=True),
            "revoke": RevokeNode(actor="admin", node_id=NodeId("gw2"), role="gateway"),
        }
        command = commands[step]
        plan = await planned(site, on(DRY, command))  # type: ignore[arg-type]
        before = await last_item(site)
        await written(site, command)
        appended = {(feed, path.partition("/")[2]) for feed, path, _ in await items_since(site, before)}
        assert appended or step == "revoke"  # gw2 has announced no key: nobody was told of it
        heard = {(feed, key) for feed, key in appended if feed != "feed.agent.site-a" or step != "remove"}
        assert feeds_of(plan) == heard

    async def test_what_is_so_already_is_no_change(self, site: World) -> None:
        await written(site, http("wiki"))
        assert await planned(site, on(DRY, http("wiki"))) == Plan(changed=False, changes=(), readers=())

    async def test_a_moved_port_is_closed_and_opened_on_the_gateways(self, site: World) -> None:
        await written(site, tcp("ssh", 10022))
        plan = await planned(site, on(DRY, tcp("ssh", 10023)))
        at_gateway = {row[1:] for row in told(plan) if row[0] == "gw1"}
        assert at_gateway == {
            ("route", "ssh", "change"), ("port", "tcp 10022", "remove"), ("port", "tcp 10023", "add"),
        }  # fmt: skip

    async def test_a_removed_agent_loses_its_certificate(self, site: World) -> None:
        command = RemoveNode(actor="admin", node_id=NodeId("site-b"), role="agent", terms=DRY)
        assert ("site-b", "certificate", "site-b", "remove") in told(await planned(site, command))

    async def test_it_is_refused_by_the_rules_of_the_write(self, site: World) -> None:
        await written(site, http("wiki"))
        for command, status, code in (
            (http("docs", "wiki.example.com"), 409, "host-taken"),
            (http("docs", agent="nobody"), 404, "unknown-agent"),
            (tcp("web", 443), 422, "invalid-field"),
            (UnpublishService(actor="admin", service_id=ServiceId("none")), 404, "unknown-service"),
            (RemoveNode(actor="admin", node_id=NodeId("site-a"), role="agent"), 409, "has-services"),
            (RemoveNode(actor="admin", node_id=NodeId("gw1"), role="agent"), 404, "unknown-node"),
            (RotateNode(actor="admin", node_id=NodeId("gw1"), role="gateway"), 409, "not-announced"),
        ):
            said = await refused(site, command, status, code)
            assert await refused(site, on(DRY, command), status, code) == said  # type: ignore[arg-type]

    async def test_a_token_is_not_made(self, site: World) -> None:
        command = CreateToken(
            actor="admin", role="agent", node_id=NodeId("new"), pool=POOL, secret_hash=b"h" * 32, terms=DRY
        )
        assert (await planned(site, command)).changed

    async def test_it_uses_no_idempotency_key_up(self, site: World) -> None:
        assert (await planned(site, on(DRY, http("wiki", key="k")))).changed
        assert (await written(site, http("wiki", key="k"))).changed
        assert not (await written(site, http("wiki", key="k"))).changed

    async def test_a_plan_larger_than_a_message_says_how_much_it_leaves_out(self, site: World) -> None:
        for number in range(400):
            await written(site, tcp(f"s{number}", 10100 + number))
        command = RemoveNode(actor="admin", node_id=NodeId("site-a"), role="agent", cascade=True)
        plan = await planned(site, on(DRY, command))
        assert plan.left_out > 0
        # The certificate, and of each service the route: its targets are not told to the node that goes.
        assert len(plan.changes) + plan.left_out == 1 + 400


class TestExpectedState:
    async def test_a_write_over_another_state_is_refused_with_the_present_one(self, site: World) -> None:
        first = await written(site, http("wiki"))
        second = await written(site, structs.replace(http("wiki"), host="docs.example.com"))
        late = on(Terms(if_match=(first.seq,)), http("wiki", "late.example.com"))
        assert (await refused(site, late, 412, "changed")).current_seq == second.seq
        await written(site, on(Terms(if_match=(first.seq, second.seq)), http("wiki", "late.example.com")))

    async def test_any_state_is_not_none(self, site: World) -> None:
        any_state = Terms(if_match=(0,))
        assert (await refused(site, on(any_state, http("wiki")), 412, "changed")).current_seq == 0
        await written(site, http("wiki"))
        await written(site, on(any_state, http("wiki", "docs.example.com")))

    async def test_the_same_of_an_unpublication(self, site: World) -> None:
        first = await written(site, http("wiki"))
        command = UnpublishService(actor="admin", service_id=ServiceId("wiki"))
        await refused(site, on(Terms(if_match=(first.seq + 1,)), command), 412, "changed")
        await written(site, on(Terms(if_match=(first.seq,)), command))

    async def test_a_node_has_the_number_of_its_last_event(self, site: World) -> None:
        events = await site.ask(ListEvents(actor="admin", limit=200))
        assert isinstance(events, Events)
        nodes = await site.ask(ListNodes(actor="admin", role="agent"))
        assert isinstance(nodes, Nodes)
        assert nodes.updated_seqs is not UNSET
        for node, seq in zip(nodes.items, nodes.updated_seqs, strict=True):
            assert seq == last_about(node.node_id, events.items)
        # Something else happens, and the number stays.
        await written(site, http("wiki"))
        later = await site.ask(ListNodes(actor="admin", role="agent"))
        assert isinstance(later, Nodes)
        assert later.updated_seqs == nodes.updated_seqs

    async def test_a_node_is_removed_only_as_it_was_seen(self, site: World) -> None:
        nodes = await site.ask(ListNodes(actor="admin", role="agent", node_id="site-b"))
        assert isinstance(nodes, Nodes)
        assert nodes.updated_seqs is not UNSET
        (seq,) = nodes.updated_seqs
        command = RemoveNode(actor="admin", node_id=NodeId("site-b"), role="agent")
        assert (await refused(site, on(Terms(if_match=(seq - 1,)), command), 412, "changed")).current_seq == seq
        await written(site, on(Terms(if_match=(seq,)), command))


async def listed(site: World) -> Services:
    answer = await site.ask(ListServices(actor="admin"))
    assert isinstance(answer, Services)
    return answer


def last_about(node_id: str, events: Sequence[EventView]) -> int:
    return max(event.seq for event in events if event.topic == "node-enrolled" and f'"{node_id}"' in event.fact)


class TestSources:
    async def test_a_service_remembers_its_source_and_a_person_leaves_it_there(self, site: World) -> None:
        await written(site, of_source("fleet", http("wiki")))
        await written(site, http("wiki", "docs.example.com"))
        listed = await site.ask(ListServices(actor="admin", source="fleet"))
        assert isinstance(listed, Services)
        assert [(view.service_id, view.host, view.source) for view in listed.items] == [
            ("wiki", "docs.example.com", "fleet")
        ]

    async def test_one_source_changes_nothing_of_another(self, site: World) -> None:
        await written(site, of_source("fleet", http("wiki")))
        problem = await refused(site, of_source("other", http("wiki", "b.example.com")), 409, "owned")
        assert problem.holders == ("fleet",)
        gone = UnpublishService(actor="admin", service_id=ServiceId("wiki"), terms=Terms(source="other"))
        await refused(site, gone, 409, "owned")
        await refused(site, of_source("other", http("wiki"), adopt=""), 409, "owned")
        await written(site, structs.replace(gone, terms=Terms(source="fleet")))

    async def test_what_nobody_owns_is_taken_over_by_adoption_only(self, site: World) -> None:
        await written(site, http("wiki"))
        await refused(site, of_source("fleet", http("wiki")), 409, "owned")
        # Nothing but the owner becomes different, and no node hears of it.
        before = await last_item(site)
        assert (await written(site, of_source("fleet", http("wiki"), adopt=""))).changed
        assert await items_since(site, before) == set()
        assert not (await written(site, of_source("fleet", http("wiki")))).changed
        assert (await written(site, of_source("other", http("wiki"), adopt="fleet"))).changed

    async def test_a_person_takes_over_by_naming_whom_from(self, site: World) -> None:
        await written(site, of_source("fleet", http("wiki")))
        await refused(site, on(Terms(adopt="other"), http("wiki")), 409, "owned")
        assert (await written(site, on(Terms(adopt="fleet"), http("wiki")))).changed
        assert not (await written(site, on(Terms(adopt="fleet"), http("wiki")))).changed, "it is nobody's already"
        (view,) = (await listed(site)).items
        assert view.source is UNSET


class TestLists:
    async def test_services_by_what_they_are(self, site: World) -> None:
        for command in (http("wiki"), http("docs", agent="site-b"), tcp("ssh", 10022)):
            await written(site, command)
        await written(site, RevokeNode(actor="admin", node_id=NodeId("site-b"), role="agent"))
        for filters, names in (
            ({}, ["docs", "ssh", "wiki"]),
            ({"kind": "http"}, ["docs", "wiki"]),
            ({"agent": "site-a"}, ["ssh", "wiki"]),
            ({"state": "no-target"}, ["docs"]),
            ({"state": "active", "kind": "http"}, ["wiki"]),
            ({"host": "docs.example.com"}, ["docs"]),
            ({"pool": "main"}, ["docs", "ssh", "wiki"]),
            ({"pool": "none"}, []),
            ({"source": ""}, ["docs", "ssh", "wiki"]),
            ({"limit": 2}, ["docs", "ssh"]),
            ({"limit": 2, "after": "ssh"}, ["wiki"]),
        ):
            found = await site.ask(ListServices(actor="admin", **filters))
            assert isinstance(found, Services)
            assert [view.service_id for view in found.items] == names, filters
            assert found.next_after == ("ssh" if filters == {"limit": 2} else "")

    async def test_nodes_and_tokens_by_their_state(self, site: World) -> None:
        await written(site, RevokeNode(actor="admin", node_id=NodeId("site-b"), role="agent"))
        await site.token("late")
        for state, names in (("enrolled", ["site-a"]), ("revoked", ["site-b"]), ("live", [])):
            found = await site.ask(ListNodes(actor="admin", role="agent", state=state))
            assert isinstance(found, Nodes)
            assert [view.node_id for view in found.items] == names
            assert {view.state for view in found.items} <= {state}
        for state, count in (("open", 1), ("used", 4), ("expired", 0)):
            tokens = await site.ask(ListTokens(actor="admin", state=state))
            assert isinstance(tokens, Tokens)
            assert [view.state for view in tokens.items] == [state] * count

    async def test_tokens_and_events_are_turned_page_by_page(self, site: World) -> None:
        seen: list[str] = []
        after = ""
        while True:
            page = await site.ask(ListTokens(actor="admin", limit=1, after=after))
            assert isinstance(page, Tokens)
            seen += [view.node_id for view in page.items]
            if not (after := page.next_after):
                break
        assert sorted(seen) == ["gw1", "gw2", "site-a", "site-b"]
        events = await site.ask(ListEvents(actor="admin", limit=3))
        assert isinstance(events, Events)
        assert events.next_after == events.items[-1].seq == 3


async def test_a_key_with_another_body_is_a_conflict_and_another_caller_has_his_own(site: World) -> None:
    first = await written(site, http("wiki", key="once"))
    again = await written(site, http("wiki", key="once"))
    assert (again.seq, again.changed) == (first.seq, False)
    await refused(site, http("docs", key="once"), 409, "idempotency-key-reused")
    await refused(site, of_source("fleet", http("wiki", key="once")), 409, "idempotency-key-reused")
    other = structs.replace(http("docs", key="once"), actor="ann")
    assert (await written(site, other)).changed
    # A day later it is a new request.
    site.folds = False
    await site.database.execute("update idempotency set at = at - interval '25 hours'")
    assert (await written(site, structs.replace(http("docs", "b.example.com", key="once"), actor="ann"))).changed
