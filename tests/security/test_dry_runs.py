"""A dry run of each write, on the real registry: it is answered with a plan, and nothing is another afterwards."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kakuremichi_portal.route import Access
from support.portal_https import PASSWORD, PortalWorld, portal_over_https
from support.real_registry import World, http

SERVICE = {"kind": "http", "pool": "main", "host": "x.example.com", "targets": [{"agent": "site-a", "port": 80}]}
VIEWER = {"role": "viewer", "password": PASSWORD}
GIVEN: dict[str, tuple[str, dict[str, Any] | None]] = {
    "createService": ("", SERVICE | {"name": "fresh"}),
    "replaceService": ("wiki", SERVICE),
    "deleteService": ("wiki", None),
    "removeGateway": ("gw1", None),
    "revokeGateway": ("gw1", None),
    "removeAgent": ("site-b", None),
    "revokeAgent": ("site-b", None),
    "createToken": ("", {"role": "agent", "node": "site-c", "pool": "main"}),
    "createAccount": ("", VIEWER | {"name": "eve"}),
    "replaceAccount": ("vic", {"role": "publisher"}),
    "removeAccount": ("vic", None),
    "createSetupCode": ("", None),
    "createApiToken": ("", {"name": "deploy", "scope": "publish"}),
    "removeApiToken": ("spare", None),
    "endSession": ("", None),
}
# Of nodes that are not as these would need them, and of no trust key at all: other tests have them.
ELSEWHERE = {
    "rotateGateway", "rotateAgent", "releaseGateway", "releaseAgent", "submitSignature", "enrol", "renew",
}  # fmt: skip
TABLES = ("event_log", "account", "portal_session", "setup_code", "node", "service", "join_token", "idempotency")


@pytest.fixture
async def at(registry_world: World, tmp_path: Path, quick_passwords: None) -> AsyncIterator[PortalWorld]:
    await registry_world.enrol("gw1", "gateway")
    for name in ("site-a", "site-b"):
        await registry_world.enrol(name)
    await registry_world.ask(http("wiki"))
    async with portal_over_https(registry_world, tmp_path) as made:
        await made.account("vic")
        made.token("spare", "read")
        yield made


async def everything(at: PortalWorld) -> dict[str, object]:
    rows: dict[str, object] = {"file": at.tokens.read_text()}
    for table in TABLES:
        # When somebody was seen last is no decision of anybody.
        found = await at.registry.database.fetch(f"select to_jsonb(t) - 'seen_at' as row from {table} t")  # noqa: S608
        rows[table] = sorted(str(row["row"]) for row in found)
    return rows


async def test_every_write_can_be_tried_out_and_changes_nothing(at: PortalWorld) -> None:
    browser = await at.signed_in("vic")
    (session,) = (await browser.get("/api/v1/sessions")).json["items"]
    admin, before = await at.browser(), await everything(at)
    writes = [
        route for route in at.portal.routes
        if route.path.startswith("/api/") and route.method != "GET" and route.access is not Access.SESSION
    ]  # fmt: skip
    assert {route.operation for route in writes} == GIVEN.keys() | ELSEWHERE
    for route in writes:
        if route.operation in ELSEWHERE:
            continue
        name, body = GIVEN[route.operation]
        path = route.path.replace("{name}", session["id"] if route.operation == "endSession" else name)
        headers = at.header | {"Idempotency-Key": "once"}
        answer = await admin.ask(route.method, f"{path}?dry_run=1", json=body, headers=headers)
        assert answer.status == 200, (route.operation, answer.text)
        assert answer.json.keys() == {"name", "changed", "changes", "left_out"}, route.operation
        assert answer.json["changed"] is True, route.operation
    assert await everything(at) == before


async def test_a_dry_run_is_refused_by_the_rules_of_the_write(at: PortalWorld) -> None:
    await at.account("ann", "admin")
    browser, before = await at.browser(), await everything(at)
    for method, path, body, status in (
        ("POST", "accounts", VIEWER | {"name": "vic"}, 409),
        ("POST", "accounts", VIEWER | {"name": "eve", "password": "short"}, 422),
        ("PUT", "accounts/nobody", {"role": "viewer"}, 404),
        ("PUT", "accounts/ann", {"role": "viewer"}, 409),
        ("DELETE", "accounts/ann", None, 409),
        ("DELETE", "accounts/nobody", None, 404),
        ("DELETE", f"sessions/{'0' * 16}", None, 404),
        ("POST", "setup-codes", None, 409),
        ("POST", "api-tokens", {"name": "spare", "scope": "read"}, 409),
        ("DELETE", "api-tokens/admin", None, 409),
    ):
        for query in ("?dry_run=1", ""):
            answer = await browser.ask(method, f"/api/v1/{path}{query}", json=body, headers=at.header)
            assert answer.status == status, (method, path, query, answer.text)
    assert await everything(at) == before


async def test_what_is_so_already_is_planned_as_no_change(at: PortalWorld) -> None:
    browser = await at.browser()
    answer = await browser.ask("PUT", "/api/v1/accounts/vic?dry_run=1", json={"role": "viewer"}, headers=at.header)
    assert (answer.status, answer.json["changed"]) == (200, False)


async def test_an_account_is_replaced_only_as_it_was_seen(at: PortalWorld) -> None:
    browser = await at.browser()
    seen = (await browser.get("/api/v1/accounts/vic", headers=at.header)).headers["Etag"]
    number = '"' + seen.strip('"').partition("-")[0] + '"'
    for tag, role, status in ((number, "publisher", 200), (seen, "viewer", 412), (number, "viewer", 412)):
        answer = await browser.ask(
            "PUT", "/api/v1/accounts/vic", json={"role": role}, headers=at.header | {"If-Match": tag}
        )
        assert answer.status == status, answer.text
    now = (await browser.get("/api/v1/accounts/vic", headers=at.header)).headers["Etag"]
    for tag, status in ((seen, 412), (now, 200)):
        headers = at.header | {"If-Match": tag}
        assert (await browser.ask("DELETE", "/api/v1/accounts/vic", headers=headers)).status == status
