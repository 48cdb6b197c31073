"""Tokens of the API: scoped, with an end, known by their first characters only."""

import time
from typing import Any

import msgspec
import pytest

from kakuremichi_portal.access import add_token
from kakuremichi_portal.route import Access
from unit.portal.world import WIKI, World

JSON = {"Content-Type": "application/json"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def make(world: World, name: str, scope: str, days: int = 1, expected: int = 201) -> dict[str, Any]:
    body = {"name": name, "scope": scope, "days": days}
    async with world.client.post("/api/v1/api-tokens", json=body, headers=world.auth) as response:
        assert response.status == expected, await response.text()
        answer: dict[str, Any] = await response.json()
        return answer


async def status(world: World, token: str, method: str, path: str, **options: Any) -> int:
    async with world.client.request(method, path, headers=bearer(token), **options) as response:
        return response.status


async def test_each_scope_may_what_it_says_and_no_more(world: World) -> None:
    read = (await make(world, "reader", "read"))["token"]
    publish = (await make(world, "deployer", "publish"))["token"]
    for route in world.portal.routes:
        path = route.path.replace("{name}", "some-name")
        if route.access is Access.ADMIN:
            assert await status(world, publish, route.method, path) == 403
        if route.access in (Access.ADMIN, Access.WRITE):
            assert await status(world, read, route.method, path) == 403
    assert await status(world, read, "GET", "/api/v1/services") == 200
    assert await status(world, publish, "POST", "/api/v1/services", json=WIKI) == 201


async def test_a_token_is_listed_by_its_first_characters_and_kept_as_a_hash(world: World) -> None:
    made = await make(world, "deployer", "publish", 30)
    async with world.client.get("/api/v1/api-tokens", headers=world.auth) as response:
        text = await response.text()
    known = {item["name"]: item for item in msgspec.json.decode(text)["items"]}

    assert known["deployer"]["prefix"] == made["token"][:12]
    assert (known["deployer"]["scope"], known["deployer"]["state"]) == ("publish", "open")
    assert "token" not in known["deployer"]
    assert made["token"] not in text
    assert made["token"] not in world.token_file.read_text()


async def test_an_expired_or_removed_token_is_as_good_as_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    old = add_token(world.token_file, "old", "admin", expires_at=1)
    assert await status(world, old, "GET", "/api/v1/services") == 401
    short = (await make(world, "short", "read", 1))["token"]
    assert await status(world, short, "GET", "/api/v1/services") == 200
    assert await status(world, world.admin, "DELETE", "/api/v1/api-tokens/short") == 200
    assert await status(world, short, "GET", "/api/v1/services") == 401
    later = (await make(world, "later", "read", 1))["token"]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86401)
    assert await status(world, later, "GET", "/api/v1/services") == 401


async def test_names_are_unique_and_the_last_administrator_stays(world: World) -> None:
    await make(world, "twin", "read")
    assert (await make(world, "twin", "admin", expected=409))["type"].endswith("exists")
    assert await status(world, world.admin, "DELETE", "/api/v1/api-tokens/nobody") == 404
    assert await status(world, world.admin, "DELETE", "/api/v1/api-tokens/ann") == 409
    await make(world, "second", "admin")
    assert await status(world, world.admin, "DELETE", "/api/v1/api-tokens/ann") == 200
