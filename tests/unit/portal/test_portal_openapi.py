"""The OpenAPI document is whole and says what the server does."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from unit.portal.world import World

METHODS = {"get", "put", "post", "delete"}


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


async def document_of(world: World) -> dict[str, Any]:
    async with world.client.get("/api/v1/openapi.json", headers=world.auth) as response:
        assert response.content_type == "application/json"
        document: dict[str, Any] = msgspec.json.decode(await response.read())
        return document


async def test_every_route_of_the_server_is_in_it_and_nothing_else(world: World) -> None:
    document = await document_of(world)
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    served = {(route.method, route.resource.canonical) for route in world.portal.app.router.routes() if route.resource}
    assert described == served


async def test_it_is_a_sound_3_1_document(world: World) -> None:
    document = await document_of(world)
    assert document["openapi"].startswith("3.1.")
    assert {"title", "version"} <= document["info"].keys()
    identifiers = []
    for path, item in document["paths"].items():
        assert set(item) <= METHODS
        for operation in item.values():
            identifiers.append(operation["operationId"])
            named = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))
            assert operation["responses"], path
            for status, answer in operation["responses"].items():
                assert re.fullmatch(r"[2345]\d\d", status)
                assert answer["description"]
            for requirement in operation["security"]:
                assert set(requirement) <= document["components"]["securitySchemes"].keys()
    assert len(identifiers) == len(set(identifiers))
    for reference in references(document):
        where: Any = document
        for step in reference.removeprefix("#/").split("/"):
            where = where[step]


async def test_writes_say_what_they_take_and_how_they_refuse(world: World) -> None:
    document = await document_of(world)
    create = document["paths"]["/api/v1/services"]["post"]
    assert create["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ServiceIn"}
    assert {"200", "201", "202", "400", "401", "403", "409", "413", "415", "422"} <= create["responses"].keys()
    assert "application/problem+json" in create["responses"]["409"]["content"]
    assert {one["name"] for one in create["parameters"]} == {"wait", "timeout", "Idempotency-Key"}
    assert create["security"] == [{"bearer": []}]
    assert document["components"]["schemas"]["ServiceIn"]["additionalProperties"] is False
    assert document["paths"]["/api/v1/enrol"]["post"]["security"] == []
