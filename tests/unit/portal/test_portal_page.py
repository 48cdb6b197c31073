"""The status page: signing in, what it shows, and what it never lets through."""

import re
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from kakuremichi.wire.commands import EventView
from kakuremichi_portal import page_view
from unit.portal.fake_registry import node_view
from unit.portal.world import WIKI, World

EVIL = "<script>alert(1)</script>\"'&"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


async def sign_in(world: World) -> str:
    """Sign in as a viewer; the header that sets the cookie."""
    async with world.client.post("/sign-in", data={"token": world.viewer}, allow_redirects=False) as response:
        assert response.status == 303
        return str(response.headers["Set-Cookie"])


async def read(world: World, path: str = "/", status: int = 200) -> str:
    async with world.client.get(path) as response:
        assert response.status == status
        return str(await response.text())


async def test_a_stranger_is_sent_to_the_sign_in_form(world: World) -> None:
    async with world.client.get("/", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (303, "/sign-in")
    assert 'type="password"' in await read(world, "/sign-in")
    assert world.registry.asked == []


async def test_the_session_cookie_is_not_the_token_and_is_kept_from_scripts_and_strangers(world: World) -> None:
    cookie = await sign_in(world)
    assert world.viewer not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


async def test_the_page_shows_services_nodes_and_events_with_their_traces(world: World) -> None:
    async with world.client.put("/api/v1/services/wiki", json=WIKI, headers=world.auth) as response:
        assert response.status == 200
    await sign_in(world)
    text = await read(world)
    expected = (
        "http://wiki.lab.test",
        "site-a → 127.0.0.1:8080",
        "haproxy",
        "Applied on",
        "3 of 3",
        "gw2",
        "203.0.113.1:51820",
        "10.0.0.0/24",
        "0af7651916cd43dd8448eb211c80319c",
        "service.published",
    )
    assert [shown for shown in expected if shown not in text] == []
    assert '<meta http-equiv="refresh" content="5">' in text
    assert "http-equiv" not in await read(world, "/?refresh=off")


async def test_names_and_sentences_of_others_are_text_and_never_markup(world: World) -> None:
    world.registry.nodes = [
        node_view(EVIL, errors=((EVIL, EVIL),), warnings=(EVIL,), version=EVIL, endpoints=(EVIL,)),
        node_view(EVIL, "agent", subnet=EVIL, pool=EVIL),
    ]
    world.registry.events.append(
        EventView(seq=1, at=EVIL, actor=EVIL, topic=EVIL, fact=msgspec.json.encode({"node_id": EVIL}).decode(),
                  trace_id=EVIL, head=EVIL)
    )  # fmt: skip
    async with world.client.put("/api/v1/services/wiki", headers=world.auth, json=WIKI | {"host": EVIL}) as response:
        assert response.status == 200
    world.registry.services["wiki"] = msgspec.structs.replace(
        world.registry.services["wiki"], errors=((EVIL, EVIL),), sources=(EVIL,)
    )
    await sign_in(world)
    text = await read(world)
    assert text.count("&lt;script&gt;alert(1)") >= 12
    assert "<script" not in text
    assert not re.search(r"\son\w+=|style=", text)


async def test_without_the_registry_the_page_says_that_visitors_are_not_affected(world: World) -> None:
    await sign_in(world)
    world.registry_bus.disconnect()
    text = await read(world, status=503)
    assert "The registry does not answer" in text
    assert "Visitors are not affected" in text


async def test_without_the_registry_nobody_can_sign_in_and_the_form_says_so(world: World) -> None:
    world.registry_bus.disconnect()
    async with world.client.post("/sign-in", data={"token": world.viewer}) as response:
        assert response.status == 503
        assert "nobody can sign in for the moment" in await response.text()
        assert "Set-Cookie" not in response.headers
    async with world.client.get("/sign-in") as response:
        assert response.status == 200


async def test_the_session_of_a_browser_reads_the_api_and_writes_from_its_own_pages_only(world: World) -> None:
    await sign_in(world)
    async with world.client.get("/api/v1/services") as response:
        assert response.status == 200
    for headers in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.test"}):
        async with world.client.put("/api/v1/services/wiki", json=WIKI, headers=headers) as response:
            assert (await response.json())["type"].endswith("foreign-form")
    async with world.client.put("/api/v1/services/wiki", json=WIKI, headers={"Sec-Fetch-Site": "same-origin"}) as r:
        assert (await r.json())["detail"] == "vic has a token of scope read: publish is needed here"
    world.registry_bus.disconnect()
    async with world.client.get("/api/v1/services") as response:
        assert response.status in (503, 504)


async def test_a_wrong_token_gets_no_session_and_few_attempts(world: World) -> None:
    statuses = []
    for _ in range(12):
        async with world.client.post("/sign-in", data={"token": "guess"}) as response:
            statuses.append(response.status)
            assert "Set-Cookie" not in response.headers
    assert statuses[:10] == [401] * 10
    assert statuses[-1] == 429


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.test"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
async def test_forms_of_other_sites_are_refused(world: World, headers: dict[str, str]) -> None:
    for path in ("/sign-in", "/sign-out"):
        async with world.client.post(path, data={"token": world.admin}, headers=headers) as response:
            assert response.status == 403


async def test_signing_out_needs_the_form_of_the_session_and_ends_it(world: World) -> None:
    await sign_in(world)
    async with world.client.post("/sign-out", data={"form_key": "x"}) as response:
        assert response.status == 403
    found = re.search(r'name="form_key" value="([^"]+)"', await read(world))
    assert found
    async with world.client.post("/sign-out", data={"form_key": found[1]}, allow_redirects=False) as response:
        assert response.status == 303
    async with world.client.get("/", allow_redirects=False) as response:
        assert response.status == 303


async def test_a_session_ends_with_the_token_that_opened_it(world: World) -> None:
    await sign_in(world)
    await read(world)
    world.token_file.write_text('{"tokens": []}')
    async with world.client.get("/", allow_redirects=False) as response:
        assert response.status == 303


@pytest.mark.parametrize(("ending", "kind"), [("css", "text/css"), ("svg", "image/svg+xml")])
async def test_style_sheet_and_icon_are_there_and_may_be_kept(world: World, ending: str, kind: str) -> None:
    found = re.search(rf'href="(/static/[^"]+\.{ending})"', await read(world, "/sign-in"))
    assert found
    async with world.client.get(found[1]) as response:
        assert (response.status, response.content_type) == (200, kind)
        assert "immutable" in response.headers["Cache-Control"]


async def test_browsers_may_say_where_our_own_forms_come_from(world: World) -> None:
    """With `no-referrer` they would send `Origin: null`, which is refused; tests/ui tries it in one."""
    async with world.client.get("/sign-in") as response:
        assert response.headers["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize(
    ("at", "text"),
    [("", "never"), ("2026-01-02T03:04:00+00:00", "5 s ago"), ("2026-01-02T03:00:05Z", "4 min ago"),
     ("2026-01-01T23:04:05Z", "4 h ago"), ("2025-12-30T03:04:05Z", "3 d ago"), ("2027-01-01T00:00:00Z", "0 s ago")],
)  # fmt: skip
def test_times_are_told_as_distances(at: str, text: str) -> None:
    assert page_view.ago(at, NOW) == text


@pytest.mark.parametrize(
    ("changes", "headline"),
    [
        ({}, "Everything is as it should be"),
        ({"state": "offline"}, "One thing needs a look"),
        ({"errors": (("route/wiki", "no"),)}, "One thing needs a look"),
    ],
)
def test_the_headline_counts_what_needs_a_look(changes: dict[str, Any], headline: str) -> None:
    nodes = (node_view("gw1"), node_view("gw2", **changes))
    assert page_view.page(nodes, (), (), (), NOW).headline.text == headline


def test_a_gateway_that_is_behind_has_not_applied_everything() -> None:
    page = page_view.page((node_view("gw1"), node_view("gw2", behind=2)), (), (), (), NOW)
    assert [row.changes.text for row in page.gateways] == ["all applied", "2 to come"]
