"""ETags, expected states, dry runs, pages and filters, on the memory bus."""

from typing import Any

import pytest
from msgspec import UNSET, structs

from kakuremichi.wire import commands
from kakuremichi.wire.plans import FeedReaders, PlannedChange
from kakuremichi_portal import scoping
from kakuremichi_portal.principal import Scope
from unit.portal.fake_registry import node_view
from unit.portal.world import WIKI, World

URL = "/api/v1/services/wiki"
PLAN = commands.Plan(
    changed=True, left_out=5,
    changes=(
        PlannedChange(feed="feed.pool.default", kind="route", key="wiki", action="add", what="http to site-a"),
        PlannedChange(feed="feed.agent.site-a", kind="target", key="wiki-1", action="add", what="tcp to port 8080"),
    ),
    readers=(
        FeedReaders(feed="feed.pool.default", nodes=("gw1", "gw2"), left_out=3),  # type: ignore[arg-type]
        FeedReaders(feed="feed.agent.site-a", nodes=("site-a",)),  # type: ignore[arg-type]
    ),
)  # fmt: skip


async def publish(world: World) -> None:
    async with world.client.post("/api/v1/services", json=WIKI, headers=world.auth) as response:
        assert response.status == 201


async def etag_of(world: World, url: str = URL) -> str:
    async with world.client.get(url, headers=world.auth) as response:
        return response.headers["ETag"]


def asked(world: World) -> Any:
    """The last write that the registry was asked for."""
    return next(command for command in reversed(world.registry.asked) if isinstance(command, commands.Write))


class TestETags:
    async def test_an_answer_that_is_known_is_not_sent_again(self, world: World) -> None:
        await publish(world)
        etag = await etag_of(world)
        assert etag.startswith('"1-')
        for known, status in ((etag, 304), (f'"x", {etag}', 304), ("*", 304), ('"1"', 200), (f"W/{etag}", 200)):
            async with world.client.get(URL, headers=world.auth | {"If-None-Match": known}) as response:
                assert (response.status, response.headers["ETag"]) == (status, etag), known
                assert bool(await response.read()) == (status == 200)

    async def test_what_a_node_reports_makes_it_another_answer(self, world: World) -> None:
        await publish(world)
        etag = await etag_of(world)
        wiki = world.registry.services["wiki"]
        world.registry.services["wiki"] = structs.replace(wiki, errors=(("gw1", "port taken"),))
        async with world.client.get(URL, headers=world.auth | {"If-None-Match": etag}) as response:
            assert response.status == 200
        assert await etag_of(world) != etag

    async def test_a_node_has_one_too(self, world: World) -> None:
        etag = await etag_of(world, "/api/v1/gateways/gw1")
        async with world.client.get("/api/v1/gateways/gw1", headers=world.auth | {"If-None-Match": etag}) as response:
            assert response.status == 304

    @pytest.mark.parametrize(
        ("header", "seqs"),
        [('"17"', (17,)), ('"17-0123456789abcdef"', (17,)), ('"17", "18"', (17, 18)), ("*", (0,)), ('W/"17"', ()),
         ('"0"', ()), ('"x"', ()), ('"99999999999999999999"', ()), ('""', ())],
    )  # fmt: skip
    async def test_a_write_says_which_states_it_is_for(self, world: World, header: str, seqs: tuple[int, ...]) -> None:
        async with world.client.put(URL, json=WIKI, headers=world.auth | {"If-Match": header}) as response:
            assert response.status == 200
        assert asked(world).terms == commands.Terms(if_match=seqs)

    @pytest.mark.parametrize("header", ["17", '"17" "18"', '"17', "", ", ".join(['"1"'] * 17), '"ü"', "*, *"])
    async def test_a_header_that_is_none_is_refused(self, world: World, header: str) -> None:
        async with world.client.put(URL, json=WIKI, headers=world.auth | {"If-Match": header}) as response:
            assert (response.status, (await response.json())["field"]) == (400, "If-Match")
        assert not [command for command in world.registry.asked if isinstance(command, commands.Write)]

    async def test_a_refused_state_comes_with_the_present_one(self, world: World) -> None:
        world.registry.problem = commands.Problem(status=412, code="changed", detail="service wiki", current_seq=18)
        async with world.client.delete(URL, headers=world.auth | {"If-Match": '"17"'}) as response:
            assert (response.status, response.headers["ETag"]) == (412, '"18"')
        world.registry.problem = structs.replace(world.registry.problem, current_seq=0)
        async with world.client.delete(URL, headers=world.auth | {"If-Match": '"17"'}) as response:
            assert (response.status, "ETag" in response.headers) == (412, False)

    async def test_only_if_there_is_none(self, world: World) -> None:
        headers = world.auth | {"If-None-Match": "*"}
        async with world.client.put(URL, json=WIKI, headers=headers) as response:
            assert response.status == 200
        assert asked(world).create_only
        world.registry.problem = commands.Problem(status=409, code="exists", detail="service wiki: exists already")
        async with world.client.put(URL, json=WIKI, headers=headers) as response:
            assert response.status == 412
        world.registry.problem = commands.Problem(status=409, code="host-taken", detail="host")
        async with world.client.put(URL, json=WIKI, headers=headers) as response:
            assert response.status == 409
        async with world.client.put(URL, json=WIKI, headers=world.auth | {"If-None-Match": '"1"'}) as response:
            assert response.status == 400


class TestDryRun:
    @pytest.mark.parametrize(
        ("method", "url", "body"),
        [
            ("POST", "/api/v1/services", WIKI), ("PUT", URL, WIKI), ("DELETE", URL, None),
            ("DELETE", "/api/v1/agents/site-a?cascade=true", None), ("POST", "/api/v1/agents/site-a/revoke", None),
            ("POST", "/api/v1/gateways/gw1/rotate", None), ("POST", "/api/v1/gateways/gw1/release", None),
            ("POST", "/api/v1/tokens", {"role": "agent", "node": "new"}),
        ],
    )  # fmt: skip
    async def test_every_write_answers_with_its_plan_by_node(
        self, world: World, method: str, url: str, body: Any
    ) -> None:
        async def decide(command: object) -> commands.Result:
            world.registry.asked.append(command)
            return PLAN

        world.registry.decide = decide
        query = "&dry_run=1" if "?" in url else "?dry_run=1"
        async with world.client.request(method, url + query, json=body, headers=world.auth) as response:
            plan = await response.json()
            assert response.status == 200, plan
        assert asked(world).terms.dry_run
        assert [(row["node"], row["kind"], row["key"], row["action"]) for row in plan["changes"]] == [
            ("gw1", "route", "wiki", "add"), ("gw2", "route", "wiki", "add"), ("site-a", "target", "wiki-1", "add"),
        ]  # fmt: skip
        assert (plan["changed"], plan["left_out"]) == (True, 5 + 3)

    @pytest.mark.parametrize("query", ["dry_run=true", "dry_run=0", "dry_run=1&dry_run=1", "dry_run=1&wait=applied"])
    async def test_what_is_not_quite_a_dry_run_writes_nothing(self, world: World, query: str) -> None:
        async with world.client.put(f"{URL}?{query}", json=WIKI, headers=world.auth) as response:
            assert response.status == 400
        assert world.registry.asked == []

    async def test_without_terms_nothing_is_said_of_them(self, world: World) -> None:
        """A registry of the release before reads it."""
        await publish(world)
        assert asked(world).terms is UNSET


class TestSources:
    async def test_a_body_says_whose_it_is_and_the_query_from_whom_it_is_taken(self, world: World) -> None:
        for query, adopt in (("", UNSET), ("?adopt=by-hand", ""), ("?adopt=other", "other")):
            async with world.client.put(URL + query, json=WIKI | {"source": "fleet"}, headers=world.auth) as response:
                assert response.status == 200
            assert asked(world).terms == commands.Terms(source="fleet", adopt=adopt)

    @pytest.mark.parametrize(("method", "url"), [("PUT", URL), ("POST", "/api/v1/services")])
    async def test_no_file_is_called_as_what_comes_from_none(self, world: World, method: str, url: str) -> None:
        body = WIKI | {"source": "by-hand"}
        async with world.client.request(method, url, json=body, headers=world.auth) as response:
            problem = await response.json()
        assert (response.status, problem["field"]) == (422, "source")
        assert problem["detail"].startswith("source: by-hand stands for services that come from no file")
        assert world.registry.asked == []

    async def test_a_deletion_says_whose_it_has_to_be(self, world: World) -> None:
        await publish(world)
        async with world.client.delete(f"{URL}?source=fleet", headers=world.auth) as response:
            assert response.status == 200
        assert asked(world).terms == commands.Terms(source="fleet")

    @pytest.mark.parametrize("source", ["", "A", "a b", "x" * 32, 7])
    async def test_a_source_that_cannot_be_one_is_refused(self, world: World, source: object) -> None:
        async with world.client.put(URL, json=WIKI | {"source": source}, headers=world.auth) as response:
            assert (response.status, (await response.json())["field"]) == (422, "source")


class TestLists:
    async def pages(self, world: World, url: str, limit: int) -> list[list[str]]:
        found, after = [], ""
        while True:
            query = {"limit": str(limit)} | ({"after": after} if after else {})
            async with world.client.get(url, params=query, headers=world.auth) as response:
                page = await response.json()
                assert response.status == 200, page
            found.append([item["name"] for item in page["items"]])
            if not (after := page["next_after"]):
                return found

    async def test_pages_are_as_long_as_asked_and_lead_to_the_end(self, world: World) -> None:
        """The registry's own pages are of two."""
        for name in ("a", "b", "c", "d", "e"):
            async with world.client.put(f"/api/v1/services/{name}", json=WIKI | {"name": name}, headers=world.auth):
                pass
        assert await self.pages(world, "/api/v1/services", 3) == [["a", "b", "c"], ["d", "e"]]
        assert await self.pages(world, "/api/v1/services", 1000) == [["a", "b", "c", "d", "e"]]
        assert await self.pages(world, "/api/v1/gateways", 1) == [["gw1"], ["gw2"], ["gw3"]]
        async with world.client.get("/api/v1/services", headers=world.auth) as response:
            assert len((await response.json())["items"]) == 5

    async def test_who_sees_some_nodes_only_sees_their_numbers(self) -> None:
        nodes = tuple(node_view(name, "agent", pool=pool) for name, pool in (("a", "x"), ("b", "mine"), ("c", "x")))

        async def exchange(_command: object) -> object:
            return commands.Nodes(items=nodes, next_after="c", updated_seqs=(1, 2, 3))

        answer = await scoping.ask(Scope(pools=("mine",)), commands.ListNodes(actor="ann", role="agent"), exchange)
        assert answer == commands.Nodes(items=nodes[1:2], next_after="c", updated_seqs=(2,))

    async def test_filters_are_the_registrys_to_apply(self, world: World) -> None:
        query = "pool=main&kind=tcp&agent=site-a&state=active&host=w.example.com&source=fleet"
        async with world.client.get(f"/api/v1/services?{query}", headers=world.auth) as response:
            assert response.status == 200
        command = world.registry.asked[-1]
        assert isinstance(command, commands.ListServices)
        assert (command.pool, command.kind, command.agent) == ("main", "tcp", "site-a")
        assert (command.state, command.host, command.source) == ("active", "w.example.com", "fleet")

    @pytest.mark.parametrize(
        ("url", "field"),
        [
            ("services?limit=0", "limit"), ("services?limit=1001", "limit"), ("services?limit=x", "limit"),
            ("services?limit=1&limit=2", "limit"), ("services?kind=ftp", "kind"), ("services?state=live", "state"),
            ("services?pool=A", "pool"), ("services?agent=", "agent"), ("services?after=%00", "after"),
            ("services?host=%C3%BC", "host"), ("agents?kind=http", "kind"), ("agents?state=active", "state"),
            ("tokens?state=live", "state"), ("tokens?host=a", "host"), ("services?source=%0A", "source"),
        ],
    )  # fmt: skip
    async def test_a_query_that_cannot_be_is_refused_with_its_name(self, world: World, url: str, field: str) -> None:
        async with world.client.get(f"/api/v1/{url}", headers=world.auth) as response:
            assert (response.status, (await response.json())["field"]) == (400, field)
