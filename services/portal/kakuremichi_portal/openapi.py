"""OpenAPI 3.1 out of the route table and the message types. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Struct

from kakuremichi_portal import examples
from kakuremichi_portal.problems import CONTENT_TYPE as PROBLEM_TYPE
from kakuremichi_portal.route import Access, Answer, Query, Route
from kakuremichi_portal.shapes import Problem

VERSION = "3.1.0"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
ALWAYS = (502, 503, 504)  # whatever asks the registry may meet these
_VARIABLE = re.compile(r"\{(\w+)\}")


def document(routes: Sequence[Route], version: str) -> bytes:
    """The document as JSON text."""
    structs = _structs(routes)
    schemas, found = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    components = _portable(found)
    reference = dict(zip(structs, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, reference, components)
    return msgspec.json.encode(
        {
            "openapi": VERSION,
            "jsonSchemaDialect": DIALECT,
            "info": {
                "title": "kakuremichi",
                "version": version,
                "description": "Publish private services on a fleet of gateways. Refusals are RFC 9457 problems.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "session": {"type": "apiKey", "in": "cookie", "name": "__Host-kakuremichi_session"},
                },
            },
        }
    )


def _structs(routes: Sequence[Route]) -> tuple[type[Struct], ...]:
    found: dict[type[Struct], None] = {Problem: None}
    for route in routes:
        for answer in (route.body, *route.answers.values()):
            for kind in answer if isinstance(answer, tuple) else (answer,):
                if kind is not None and not isinstance(kind, str):
                    found[kind] = None
    return tuple(found)


def _portable(schema: Any) -> Any:
    """Patterns as JSON Schema has them: Python's ends of a text are not those of other languages."""
    if isinstance(schema, dict):
        return {
            name: value.replace(r"\A", "^").replace(r"\Z", "$")
            if name == "pattern" and isinstance(value, str)
            else _portable(value)
            for name, value in schema.items()
        }
    return [_portable(each) for each in schema] if isinstance(schema, list) else schema


def _operation(route: Route, reference: Mapping[type[Struct], Any], components: Mapping[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "tags": [route.path.removeprefix("/api/v1/").split("/")[0] if route.path.startswith("/api/") else "portal"],
        "security": _security(route.access),
        "parameters": list(_parameters(route)),
        "responses": {str(status): body for status, body in sorted(_responses(route, reference, components))},
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.body, reference, components)}
    return operation


def _security(access: Access) -> list[dict[str, list[str]]]:
    if access in (Access.READ, Access.WRITE, Access.ADMIN):
        return [{"bearer": []}]
    return [{"session": []}] if access is Access.SESSION else []


def _parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name in _VARIABLE.findall(route.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    for query in route.query:
        yield _query(query)
    for name, purpose in route.headers.items():
        schema = {"type": "string", "maxLength": 128}
        yield {"name": name, "in": "header", "required": False, "description": purpose, "schema": schema}


def _query(query: Query) -> dict[str, Any]:
    return {
        "name": query.name, "in": "query", "required": False,
        "description": query.summary, "schema": dict(query.schema),
    }  # fmt: skip


def _responses(
    route: Route, reference: Mapping[type[Struct], Any], components: Mapping[str, Any]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for status, kind in route.answers.items():
        if isinstance(kind, str) and not kind:
            yield status, {"description": HTTPStatus(status).phrase}
            continue
        yield status, {"description": HTTPStatus(status).phrase, "content": _content(kind, reference, components)}
    for status in sorted({*route.refusals, *_refusals(route.access)} - route.answers.keys()):
        phrase = HTTPStatus(status).phrase
        shown = {"Problem": {"value": examples.of_refusal(status, phrase)}}
        yield status, {
            "description": phrase, "content": {PROBLEM_TYPE: {"schema": reference[Problem], "examples": shown}},
        }  # fmt: skip


def _refusals(access: Access) -> tuple[int, ...]:
    if access in (Access.WRITE, Access.ADMIN):
        return (400, 401, 403, *ALWAYS)
    return (400, 401, *ALWAYS) if access is Access.READ else (400,)


def _content(kind: Answer, reference: Mapping[type[Struct], Any], components: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(kind, str):
        schema = {"type": "object"} if kind == "application/json" else {"type": "string"}
        shown = {"example": examples.MEDIA[kind]} if kind in examples.MEDIA else {}
        return {kind: {"schema": schema, **shown}}
    kinds = kind if isinstance(kind, tuple) else (kind,)
    schemas = [reference[each] for each in kinds]
    values = {each.__name__: {"value": examples.of_kind(each, components)} for each in kinds}
    return {"application/json": {"schema": schemas[0] if len(kinds) == 1 else {"anyOf": schemas}, "examples": values}}
