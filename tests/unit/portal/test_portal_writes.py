"""Every write of the API can be tried out first, and every list can be read a page at a time."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from unit.portal.world import World

# Who has no plan beforehand, and why.
NO_DRY_RUN = {
    "enrol": "a node's own act: its token is used up by it, and there is nobody to show a plan to",
    "renew": "a node's own act: nothing is written, it is given access for another day",
}


async def document_of(world: World) -> dict[str, Any]:
    async with world.client.get("/api/v1/openapi.json", headers=world.auth) as response:
        document: dict[str, Any] = msgspec.json.decode(await response.read())
        return document


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(method, path, operation) of the API; pages have forms of their own."""
    for path, item in document["paths"].items():
        if path.startswith("/api/"):
            for method, operation in item.items():
                yield method, path, operation


def parameters(operation: dict[str, Any]) -> set[str]:
    return {one["name"] for one in operation["parameters"]}


async def test_every_write_has_a_dry_run(world: World) -> None:
    writes = [operation for method, _, operation in operations(await document_of(world)) if method != "get"]
    without = {operation["operationId"] for operation in writes if "dry_run" not in parameters(operation)}
    assert without == NO_DRY_RUN.keys()
    assert len(writes) > 20


async def test_a_dry_run_is_answered_with_a_plan(world: World) -> None:
    for _, path, operation in operations(await document_of(world)):
        if "dry_run" in parameters(operation):
            assert "#/components/schemas/Plan" in str(operation["responses"]["200"]), path


async def test_every_list_has_pages(world: World) -> None:
    document = await document_of(world)
    lists = {}
    for method, path, operation in operations(document):
        answers = str(operation["responses"]["200"]) if "200" in operation["responses"] else ""
        for name, schema in document["components"]["schemas"].items():
            many = schema.get("properties", {}).get("items", {}).get("type") == "array"
            if method == "get" and many and f"'#/components/schemas/{name}'" in answers:
                lists[path] = operation
    assert {"/api/v1/accounts", "/api/v1/sessions", "/api/v1/api-tokens", "/api/v1/services"} <= lists.keys()
    for path, operation in lists.items():
        assert "after" in parameters(operation), path


async def test_what_can_be_replaced_can_be_replaced_as_it_was_seen(world: World) -> None:
    """Whatever has a GET with an ETag has writes with If-Match."""
    document = await document_of(world)
    tagged = {path for path, item in document["paths"].items() if "304" in item.get("get", {}).get("responses", {})}
    assert len(tagged) == 5
    for path in tagged:
        writes = {method: item for method, item in document["paths"][path].items() if method != "get"}
        assert writes
        for operation in writes.values():
            assert "If-Match" in parameters(operation), path


ACCOUNT = {"role": "viewer", "password": "moss on a stone"}


async def made(world: World, *names: str) -> None:
    for name in names:
        body = ACCOUNT | {"name": name}
        async with world.client.post("/api/v1/accounts", json=body, headers=world.auth) as response:
            assert response.status == 201, await response.text()


async def test_accounts_come_in_pages_and_by_role(world: World) -> None:
    await made(world, "bob", "eve", "vic")
    seen, after = [], ""
    for _ in range(3):
        query = {"limit": "2", "role": "viewer", **({"after": after} if after else {})}
        async with world.client.get("/api/v1/accounts", params=query, headers=world.auth) as response:
            page = await response.json()
        assert len(page["items"]) <= 2
        seen += [item["name"] for item in page["items"]]
        if not (after := page["next_after"]):
            break
    assert seen == ["bob", "eve", "vic"]
    async with world.client.get("/api/v1/accounts?role=admin", headers=world.auth) as response:
        assert (await response.json())["items"] == []


async def test_api_tokens_come_in_pages_and_by_scope(world: World) -> None:
    async with world.client.get("/api/v1/api-tokens?limit=1", headers=world.auth) as response:
        first = await response.json()
    async with world.client.get(f"/api/v1/api-tokens?after={first['next_after']}", headers=world.auth) as response:
        rest = await response.json()
    assert [item["name"] for item in first["items"] + rest["items"]] == ["ann", "vic"]
    assert rest["next_after"] == ""
    async with world.client.get("/api/v1/api-tokens?scope=read&state=open", headers=world.auth) as response:
        assert [item["name"] for item in (await response.json())["items"]] == ["vic"]


@pytest.mark.parametrize("path", ["accounts/bob", "api-tokens/vic"])
async def test_what_was_changed_meanwhile_is_not_written_over(world: World, path: str) -> None:
    await made(world, "bob")
    async with world.client.get(f"/api/v1/{path}", headers=world.auth) as response:
        etag = response.headers["ETag"]
    async with world.client.get(f"/api/v1/{path}", headers=world.auth | {"If-None-Match": etag}) as response:
        assert response.status == 304
    async with world.client.delete(f"/api/v1/{path}", headers=world.auth | {"If-Match": '"1-0"'}) as response:
        assert (response.status, response.headers["ETag"]) == (412, etag)
    async with world.client.delete(f"/api/v1/{path}", headers=world.auth | {"If-Match": etag}) as response:
        assert response.status == 200


async def test_an_account_that_has_another_label_has_another_etag(world: World) -> None:
    await made(world, "bob")
    async with world.client.get("/api/v1/accounts/bob", headers=world.auth) as response:
        seen = response.headers["ETag"]
    for label, status in (("Bob", 200), ("Robert", 412)):
        body, headers = {"role": "viewer", "label": label}, world.auth | {"If-Match": seen}
        async with world.client.put("/api/v1/accounts/bob", json=body, headers=headers) as response:
            assert response.status == status


async def test_a_dry_run_of_a_token_leaves_the_file_alone(world: World) -> None:
    before = world.token_file.read_bytes()
    body = {"name": "deploy", "scope": "publish"}
    async with world.client.post("/api/v1/api-tokens?dry_run=1", json=body, headers=world.auth) as response:
        assert (response.status, (await response.json())["changed"]) == (200, True)
    async with world.client.delete("/api/v1/api-tokens/vic?dry_run=1", headers=world.auth) as response:
        assert response.status == 200
    async with world.client.delete("/api/v1/api-tokens/ann?dry_run=1", headers=world.auth) as response:
        assert response.status == 409, "the last administrator's"
    async with world.client.post(
        "/api/v1/api-tokens?dry_run=1", json=body | {"name": "ann"}, headers=world.auth
    ) as response:
        assert response.status == 409
    assert world.token_file.read_bytes() == before
    assert world.registry.people.facts == []
