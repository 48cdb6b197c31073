"""Roles and their limits, on the whole route table: outside of a caller's pools and agents nothing exists."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kakuremichi.model.ids import NodeId, ServiceId
from kakuremichi.wire.commands import ListEvents, RemoveNode, UnpublishService, Written
from kakuremichi_portal.principal import Scope
from kakuremichi_portal.route import Access, Route
from kakuremichi_portal.scoping import SCOPED_OPERATIONS
from support.portal_https import Browser, PortalWorld
from support.real_registry import World
from support.two_pools import BODY, MAIN, SITE_A, THEIRS, portal_of_two_pools

API_ACCESS = (Access.READ, Access.WRITE, Access.ADMIN)


@pytest.fixture
async def at(registry_world: World, tmp_path: Path, quick_passwords: None) -> AsyncIterator[PortalWorld]:
    async with portal_of_two_pools(registry_world, tmp_path) as made:
        yield made


def of_api(at: PortalWorld) -> list[Route]:
    return [route for route in at.portal.routes if route.access in API_ACCESS]


def path_of(route: Route, name: str) -> str:
    return re.sub(r"\{\w+\}", name, route.path)


class TestEveryRoute:
    async def test_each_role_may_what_it_says_by_token_and_by_session(self, at: PortalWorld) -> None:
        for name, role in (("vic", "viewer"), ("bob", "publisher")):
            await at.account(name, role)
        callers = {
            ("read", "token"): (await at.browser(), at.token("reader", "read")),
            ("publish", "token"): (await at.browser(), at.token("deployer", "publish")),
            ("read", "session"): (await at.signed_in("vic"), {}),
            ("publish", "session"): (await at.signed_in("bob"), {}),
        }
        too_much = {"read": (Access.WRITE, Access.ADMIN), "publish": (Access.ADMIN,)}
        asked = 0
        for (may, _), (browser, headers) in callers.items():
            for route in of_api(at):
                if route.access in too_much[may]:
                    answer = await browser.ask(route.method, path_of(route, "alpha"), headers=headers, json={})
                    assert (answer.status, answer.json["type"].rpartition(":")[2]) == (403, "denied"), route
                    asked += 1
        assert asked > 40
        assert {event[1] for event in await at.facts()} <= {"admin", "node", "person/vic", "person/bob"}

    async def test_a_limited_caller_finds_nothing_where_limits_are_not_known(self, at: PortalWorld) -> None:
        browser, headers = await at.browser(), at.token("limited", "admin", MAIN)
        closed = [route for route in of_api(at) if route.operation not in SCOPED_OPERATIONS]
        assert {"listAccounts", "createApiToken", "listPending", "submitSignature"} <= {r.operation for r in closed}
        for route in closed:
            answer = await browser.ask(route.method, path_of(route, "1"), headers=headers)
            assert (answer.status, answer.json["detail"]) == (404, "there is nothing at this address"), route

    async def test_every_operation_that_knows_limits_is_a_route(self, at: PortalWorld) -> None:
        assert {route.operation for route in at.portal.routes} >= SCOPED_OPERATIONS

    @pytest.mark.parametrize("scope", [MAIN, SITE_A, Scope(agents=("site-a",))])
    async def test_no_answer_names_what_lies_outside(self, at: PortalWorld, scope: Scope) -> None:
        browser, headers = await at.browser(), at.token("limited", "admin", scope)
        outside = THEIRS if scope.pools else tuple(name for name in THEIRS if name not in ("gw-else", "zoo"))
        asked = set()
        for route in of_api(at):
            if route.method != "GET" or route.operation not in SCOPED_OPERATIONS - {"describe", "watch"}:
                continue
            asked.add(route.operation)
            if "{" not in route.path:
                answer = await browser.get(route.path, headers=headers)
                assert answer.status == 200, route
                assert [name for name in outside if name in answer.text] == [], route
                continue
            for name in outside:
                answer = await browser.get(path_of(route, name), headers=headers)
                assert answer.status == 404, (route, name)
        assert asked >= {
            "listServices",
            "getService",
            "listAgents",
            "getAgent",
            "listTokens",
            "listEvents",
            "getState",
            "getDiff",
        }

    @pytest.mark.parametrize("scope", [MAIN, SITE_A])
    async def test_no_write_reaches_what_lies_outside(self, at: PortalWorld, scope: Scope) -> None:
        browser, headers = await at.browser(), at.token("limited", "admin", scope)
        before = await at.facts()
        writes = [route for route in of_api(at) if route.method != "GET" and route.operation in SCOPED_OPERATIONS]
        assert len(writes) >= 11
        for route in writes:
            for name in ("zeta", "site-z", "gw-else") if "{" in route.path else ("x",):
                body: dict[str, Any] | None = None
                if route.operation in ("createService", "replaceService"):
                    body = BODY | {"name": name if "{" in route.path else "fresh", "pool": "zoo"}
                if route.operation == "createToken":
                    body = {"role": "agent", "node": "site-y", "pool": "zoo"}
                answer = await browser.ask(route.method, path_of(route, name), headers=headers, json=body)
                assert answer.status == 404, (route, name, answer.text)
        assert await at.facts() == before

    async def test_what_is_shown_is_shown_as_to_everybody(self, at: PortalWorld) -> None:
        """Also the number that follows the nodes of a page in a list of its own."""
        browser = await at.browser()
        for kind in ("agents", "gateways", "services"):
            everything = (await browser.get(f"/api/v1/{kind}", headers=at.header)).json["items"]
            for scope in (Scope(pools=("zoo",)), Scope(agents=("site-b",))):
                limited = at.token("limited", "read", scope)
                items = (await browser.get(f"/api/v1/{kind}", headers=limited)).json["items"]
                assert items
                assert [item for item in items if item not in everything] == []
                first = (await browser.get(f"/api/v1/{kind}?limit=1", headers=limited)).json["items"]
                assert first == items[:1]

    async def test_a_session_has_the_limits_of_its_account(self, at: PortalWorld) -> None:
        await at.account("bob", "publisher", pools=["main"], agents=["site-a"])
        browser = await at.signed_in("bob")
        page = (await browser.get("/")).text
        assert "alpha" in page
        assert [name for name in (*THEIRS, "beta", "site-b") if name in page] == []
        assert names_of(await browser.get("/api/v1/services")) == ["alpha"]
        assert (await browser.get("/api/v1/services/zeta")).status == 404
        assert (await browser.ask("PUT", "/api/v1/services/fresh", json=BODY)).status == 200
        assert (await at.facts())[-1][:2] == ("service-published", "person/bob")


def names_of(answer: Any) -> list[str]:
    return [item["name"] for item in answer.json["items"]]


class TestPublisherOfOneSite:
    @pytest.fixture
    async def bob(self, at: PortalWorld) -> Browser:
        browser = await at.browser()
        browser.session.headers.update(at.token("bob", "publish", SITE_A))
        return browser

    async def test_it_sees_its_agent_the_pools_gateways_and_its_own_services(self, bob: Browser) -> None:
        assert names_of(await bob.get("/api/v1/agents")) == ["site-a"]
        assert names_of(await bob.get("/api/v1/gateways")) == ["gw-main"]
        assert names_of(await bob.get("/api/v1/services")) == ["alpha"]
        events = (await bob.get("/api/v1/events?limit=200")).json["items"]
        about = {event["fact"].get("service_id") or event["fact"].get("node_id") for event in events}
        assert about == {"site-a", "gw-main", "alpha"}

    async def test_it_publishes_at_its_agent_and_nowhere_else(self, at: PortalWorld, bob: Browser) -> None:
        made = await bob.ask("POST", "/api/v1/services", json=BODY | {"name": "fresh"})
        assert made.status == 201, made.text
        assert (await bob.ask("DELETE", "/api/v1/services/fresh")).status == 200
        before = await at.facts()
        for changes in (
            {"targets": [{"agent": "site-b", "port": 80}]}, {"targets": [{"agent": "nobody", "port": 80}]},
            {"targets": [{"agent": "site-a", "port": 80}, {"agent": "site-b", "port": 80}]},
            {"targets": [{"agent": "site-z", "port": 80}]}, {"pool": "zoo"}, {"pool": "never-heard-of"},
        ):  # fmt: skip
            answer = await bob.ask("POST", "/api/v1/services", json=BODY | {"name": "fresh"} | changes)
            assert answer.status == 404, changes
        assert (await bob.ask("PUT", "/api/v1/services/fresh", json=BODY | {"targets": []})).status == 422
        assert await at.facts() == before

    async def test_an_agent_of_others_and_one_that_is_not_there_get_the_same_answer(self, bob: Browser) -> None:
        sentences = set()
        for agent in ("site-b", "site-z", "nobody"):
            body = BODY | {"name": "fresh", "targets": [{"agent": agent, "port": 80}]}
            answer = await bob.ask("POST", "/api/v1/services", json=body)
            sentences.add((answer.status, answer.json["detail"].replace(agent, "X")))
        assert sentences == {(404, "agent X: there is none of this name")}

    async def test_it_takes_over_and_withdraws_nothing_of_others(self, at: PortalWorld, bob: Browser) -> None:
        before = await at.facts()
        for name in ("beta", "zeta"):
            assert (await bob.ask("PUT", f"/api/v1/services/{name}", json=BODY)).status == 404
            assert (await bob.ask("DELETE", f"/api/v1/services/{name}")).status == 404
        assert await at.facts() == before

    async def test_a_conflict_names_nobody_outside(self, at: PortalWorld, bob: Browser) -> None:
        for changes in ({"name": "zeta"}, {"name": "fresh", "host": "zeta.example.com"}):
            answer = await bob.ask("POST", "/api/v1/services", json=BODY | changes)
            assert (answer.status, answer.json["holders"]) == (409, []), answer.text
            assert "site-z" not in answer.text
            assert "zoo" not in answer.text
        told = await (await at.browser()).ask(
            "POST", "/api/v1/services", json=BODY | {"name": "fresh", "host": "zeta.example.com"}, headers=at.header
        )
        assert "zeta" in json.dumps(told.json["holders"]), "who has no limits is told"

    async def test_a_service_that_lost_its_targets_is_nobodys_of_one_site(self, at: PortalWorld, bob: Browser) -> None:
        gone = RemoveNode(actor="admin", node_id=NodeId("site-a"), role="agent", cascade=True)
        assert isinstance(await at.registry.ask(gone), Written)
        assert names_of(await bob.get("/api/v1/services")) == []
        assert (await bob.ask("DELETE", "/api/v1/services/alpha")).status == 404

    async def test_events_are_told_by_what_they_are_about(self, at: PortalWorld, bob: Browser) -> None:
        await at.registry.ask(UnpublishService(actor="admin", service_id=ServiceId("beta")))
        await at.account("vic")
        last = await at.registry.ask(ListEvents(actor="admin", limit=2, newest_first=True))
        seqs = [event.seq for event in last.items]  # type: ignore[union-attr]
        for seq in seqs:
            assert (await bob.get(f"/api/v1/events/{seq}")).status == 404


class TestLimitedAdministrator:
    async def test_it_lets_its_own_agent_in_and_no_gateway(self, at: PortalWorld) -> None:
        browser, headers = await at.browser(), at.token("ann", "admin", SITE_A)
        for body, status in (
            ({"role": "agent", "node": "site-a", "pool": "main"}, 409),  # it is enrolled already: the registry says so
            ({"role": "agent", "node": "site-q", "pool": "main"}, 404),
            ({"role": "gateway", "node": "gw-q", "pool": "main"}, 404),
            ({"role": "agent", "node": "site-a", "pool": "zoo"}, 404),
        ):  # fmt: skip
            answer = await browser.ask("POST", "/api/v1/tokens", json=body, headers=headers)
            assert answer.status == status, (body, answer.text)

    async def test_gateways_are_seen_and_left_alone_by_who_has_agents_only(self, at: PortalWorld) -> None:
        browser, headers = await at.browser(), at.token("ann", "admin", SITE_A)
        assert (await browser.get("/api/v1/gateways/gw-main", headers=headers)).status == 200
        assert (await browser.ask("DELETE", "/api/v1/gateways/gw-main", headers=headers)).status == 404
        of_pool = at.token("pia", "admin", MAIN)
        assert (await browser.ask("DELETE", "/api/v1/gateways/gw-main", headers=of_pool)).status == 200

    async def test_it_grants_nothing_to_anybody(self, at: PortalWorld) -> None:
        browser, headers = await at.browser(), at.token("ann", "admin", MAIN)
        account = {"name": "eve", "role": "admin", "password": "moss on a stone"}
        for path, body in (("accounts", account), ("api-tokens", {"name": "eve", "scope": "admin"}),
                           ("setup-codes", {})):  # fmt: skip
            assert (await browser.ask("POST", f"/api/v1/{path}", json=body, headers=headers)).status == 404


async def test_the_limits_of_one_request_end_with_it(at: PortalWorld) -> None:
    """Both come over one connection, so the portal answers them in one task."""
    browser = await at.browser()
    limited = at.token("limited", "read", SITE_A)
    for _ in range(3):
        assert names_of(await browser.get("/api/v1/services", headers=limited)) == ["alpha"]
        assert names_of(await browser.get("/api/v1/services", headers=at.header)) == ["alpha", "beta", "zeta"]
