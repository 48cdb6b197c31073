"""Examples of every body and answer: the ones that people read most written by hand, the others made of the schemas."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from kakuremichi.declarative.spec import TargetIn
from kakuremichi.model.ids import NodeId, ServiceId
from kakuremichi_portal import shapes

AT = "2026-01-02T14:05:00Z"
TRACE = "0af7651916cd43dd8448eb211c80319c"
LOG_ID = "5f0c3e1f9d7a4f0e8a3b1c2d4e5f6071"
HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
KEY = "jFbnYzBz6K1bTtqFk1yVx0l9cXy9S2q5mB1n4h0dQ3E="

SERVICE = shapes.Service(
    name="wiki", kind="http", pool="default", host="wiki.example.com", path="", port=0, last_port=0, sources=(),
    targets=(shapes.Target(id="wiki-1", agent="site-a", address="127.0.0.1", port=8080, agent_port=20417),),
    state="active", carried_by="haproxy", errors=(), updated_seq=17, source="fleet",
)  # fmt: skip
NODE = shapes.Node(
    name="gw1", role="gateway", pool="default", slot=1, subnet="", endpoints=("203.0.113.1:51820",), public_key=KEY,
    epoch=1767362700000, state="live", last_report_at=AT, behind=0, errors=(), warnings=(), version="0.1.0",
    updated_seq=4,
)  # fmt: skip
TOKEN = shapes.Token(id="9f86d081884c", role="agent", node="site-a", pool="default", expires_at=AT, state="open")
EVENT = shapes.Event(
    seq=17, at=AT, actor="ann", topic="service-unpublished", trace_id=TRACE, head=HASH,
    fact=Raw(b'{"type":"service.unpublished.v1","service_id":"wiki","pool":"default"}'),
)  # fmt: skip
WRITTEN = shapes.WriteAnswer(name="wiki", seq=17, log_id=LOG_ID, changed=True, trace_id=TRACE)

WHOLE: Mapping[str, Any] = {
    type(made).__name__: msgspec.json.decode(msgspec.json.encode(made))
    for made in (
        SERVICE, NODE, TOKEN, EVENT, WRITTEN,
        shapes.Services(items=(SERVICE,), next_after="wiki"),
        shapes.Nodes(items=(NODE,)),
        shapes.Tokens(items=(TOKEN,)),
        shapes.Events(items=(EVENT,), next_after="17"),
        shapes.ServiceIn(
            name=ServiceId("ssh"), kind="tcp", port=10022, sources=("198.51.100.0/24",),
            targets=(TargetIn(agent=NodeId("site-b"), address="192.168.2.130", port=22),),
        ),
        shapes.AppliedAnswer(
            name="wiki", seq=17, log_id=LOG_ID, changed=True, trace_id=TRACE,
            applied=(shapes.AppliedOn(node="gw1", ms=8.7),), pending=(), offline=("gw3",), gateways=("gw1", "gw3"),
            errors=(),
        ),
        shapes.Plan(
            name="ssh", changed=True, left_out=0,
            changes=(
                shapes.PlannedChange(
                    node="gw1", kind="route", key="ssh", action="add", what="tcp 10022 to site-b"
                ),
                shapes.PlannedChange(
                    node="gw1", kind="port", key="tcp 10022", action="add", what="opened by route ssh"
                ),
                shapes.PlannedChange(
                    node="site-b", kind="target", key="ssh-1", action="add", what="tcp to 192.168.2.130 port 22"
                ),
            ),
        ),
        shapes.TokenIn(role="agent", node=NodeId("site-a")),
        shapes.TokenCreated(
            id="9f86d081884c", token="kk1.hKN1cmy0aHR0cHM6Ly9jb250cm9s…", role="agent", node="site-a",
            pool="default", expires_at=AT,
        ),
    )
}  # fmt: skip

# What a text field is about is said by its name.
TEXTS: Mapping[str, str] = {
    "actor": "ann", "agent": "site-a", "agents": "site-a", "client": "Firefox", "code": "8f1d-2b7c", "digest": HASH,
    "feed": "feed.pool.default", "hash": HASH, "head": HASH, "id": "9f86d081884c", "jwt": "eyJ0eXAiOiJKV1Qi…",
    "log_id": LOG_ID, "moment": AT, "name": "wiki", "networks": "192.168.1.0/24", "node": "site-a",
    "endpoints": "203.0.113.1:51820", "password": "correct horse battery staple", "pool": "default",
    "pools": "default", "prefix": "kkapi.Xx4f2A", "prev": HASH, "source": "198.51.100.7", "token": "kkapi.Xx4f2A…",
    "topic": "service-published", "trace_id": TRACE, "url": "https://control.example.com", "who": "person/ann",
}  # fmt: skip
MEDIA: Mapping[str, str] = {
    "application/x-pem-file": "-----BEGIN CERTIFICATE-----\n…",
    "application/x-www-form-urlencoded": "token=kkapi.Xx4f2A…",
    "text/css": "body { margin: 0 }",
    "image/svg+xml": '<svg xmlns="http://www.w3.org/2000/svg"/>',
    "text/event-stream": "event: change\ndata: {}\n\n",
    "text/html": "<!doctype html>…",
    "text/plain": "# HELP …",
}
PADDED = {24: 16, 44: 32, 88: 64}  # characters of base64, and how many bytes they are


def of_kind(kind: type[Struct], components: Mapping[str, Any]) -> Any:
    """An example that fits the schema of `kind`."""
    return _of_schema({"$ref": f"#/components/schemas/{kind.__name__}"}, components, "")


def of_refusal(status: int, title: str) -> Any:
    problem = shapes.Problem(
        type="urn:kakuremichi:problem:invalid", title=title, status=status, trace_id=TRACE,
        detail="host: what is wrong with it, and what would be right", field="host",
    )  # fmt: skip
    return msgspec.to_builtins(problem)


def _of_schema(schema: Mapping[str, Any], components: Mapping[str, Any], name: str) -> Any:
    if "$ref" in schema:
        component = str(schema["$ref"]).rpartition("/")[2]
        return WHOLE[component] if component in WHOLE else _of_schema(components[component], components, name)
    if "anyOf" in schema:
        return _of_schema(schema["anyOf"][0], components, name)
    if schema.get("type") == "object":
        # With what is optional left out: an example shows what is needed.
        needed, fields = schema.get("required", ()), schema.get("properties", {})
        return {field: _of_schema(fields[field], components, field) for field in needed}
    if schema.get("type") == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        return [_of_schema(item, components, name) for item in items]
    return schema["enum"][0] if "enum" in schema else _scalar(schema, name)


def _scalar(schema: Mapping[str, Any], name: str) -> Any:
    match schema.get("type"):
        case "string":
            return _text(schema, name)
        case "integer" | "number":
            return max(17 if name in ("seq", "until") else 1, schema.get("minimum", 1))
        case "boolean":
            return False
        case _:
            return {}


def _text(schema: Mapping[str, Any], name: str) -> str:
    if schema.get("contentEncoding") == "base64":
        count = PADDED.get(schema.get("minLength", 0), 0)
        return "A" * ((count * 4 + 2) // 3) + "=" * (-count % 3) if count else "a2FrdXJlbWljaGk="
    text = AT if name.endswith("_at") or name == "at" else TEXTS.get(name, "wiki")
    pattern = str(schema.get("pattern", ""))
    return text if re.search(pattern, text) else "wiki"
