"""The OpenAPI document is whole and says what the server does."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
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
    assert {one["name"] for one in create["parameters"]} == {"dry_run", "wait", "timeout", "Idempotency-Key"}
    assert create["security"] == [{"bearer": []}]
    assert document["components"]["schemas"]["ServiceIn"]["additionalProperties"] is False
    assert document["paths"]["/api/v1/enrol"]["post"]["security"] == []


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(operation, what, media type) of everything that is sent either way."""
    for item in document["paths"].values():
        for operation in item.values():
            name = operation["operationId"]
            for media_type, media in operation.get("requestBody", {}).get("content", {}).items():
                yield f"{name} body", media_type, media
            for status, answer in operation["responses"].items():
                for media_type, media in answer.get("content", {}).items():
                    yield f"{name} {status}", media_type, media


async def test_every_body_and_answer_has_an_example_that_fits_its_schema(world: World) -> None:
    document = await document_of(world)
    count = 0
    for what, media_type, media in bodies(document):
        if not media_type.endswith("json"):
            assert "example" in media, f"{what}: {media_type}"
            continue
        if what == "describe 200":
            continue  # the example would be this document
        assert media["examples"], what
        schema = media["schema"] | {"components": document["components"]}
        validator = jsonschema_rs.Draft202012Validator(schema)
        for name, example in media["examples"].items():
            assert [str(error) for error in validator.iter_errors(example["value"])] == [], f"{what}: {name}"
            count += 1
    assert count > len(document["paths"])


async def test_an_example_of_another_shape_would_be_noticed(world: World) -> None:
    document = await document_of(world)
    schema = {"$ref": "#/components/schemas/ServiceIn", "components": document["components"]}
    validator = jsonschema_rs.Draft202012Validator(schema)
    for wrong in ({}, {"kind": "ftp"}, {"kind": "http", "pool": "A"}, {"kind": "http", "colour": "red"}):
        assert not validator.is_valid(wrong), wrong


async def test_patterns_are_those_of_json_schema(world: World) -> None:
    found = [schema["pattern"] for schema in walk(await document_of(world)) if isinstance(schema.get("pattern"), str)]
    assert found
    for pattern in found:
        assert not re.search(r"\\[AZz]", pattern)


def walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)
