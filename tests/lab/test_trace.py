"""One trace from the HTTP request to what each gateway has done, in spans, in the log of events and in log lines."""

import asyncio
import http.client
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kakuremichi.fleet.lab_fleet import AGENTS, GATEWAYS, PORTAL_PORT, Fleet
from kakuremichi.runtime.tls import client_context
from support.fleet import get

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]  # whoever comes first starts the fleet

SECTIONS = {"http": "haproxy", "tcp": "nftables"}


@dataclass(frozen=True, slots=True)
class Span:
    process: str
    name: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    error: str


def spans_of(fleet: Fleet, trace_id: str) -> list[Span]:
    records = [
        (process, json.loads(line))
        for process, path in trace_files(fleet)
        for line in path.read_text().splitlines()
        if f'"trace_id":"{trace_id}"' in line
    ]
    return [Span(process, *(record[name] for name in Span.__slots__[1:])) for process, record in records]


def trace_files(fleet: Fleet) -> Iterable[tuple[str, Path]]:
    for path in (fleet.control.directory / "trace").glob("*.trace"):
        yield path.stem, path
    for node in (*GATEWAYS, *AGENTS):
        for path in fleet.node_host(node).directory.glob("*.trace"):
            yield node, path


def write(fleet: Fleet, name: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The trace id in the answer's header, and the answer."""
    token = fleet.control.token_file.read_text()
    trusted = client_context(fleet.control.ca_file)
    with fleet.lab.in_namespace("control"):
        connection = http.client.HTTPSConnection(fleet.lab.address("control"), PORTAL_PORT, timeout=20, context=trusted)
        connection.connect()
    try:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("PUT", f"/api/v1/services/{name}?wait=applied&timeout=10", json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.headers["X-Trace-Id"], json.loads(answer.read())
    finally:
        connection.close()


async def complete_trace(fleet: Fleet, trace_id: str, wanted: set[tuple[str, str]]) -> list[Span]:
    """The spans once these (process, name) are on disk: exporters write a fifth of a second late."""
    deadline = time.monotonic() + 5
    while True:
        spans = spans_of(fleet, trace_id)
        missing = wanted - {(span.process, span.name) for span in spans}
        if not missing:
            return spans
        assert time.monotonic() < deadline, f"not in the trace: {sorted(missing)}"
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("kind", ["http", "tcp"])
async def test_one_trace_leads_from_the_http_request_to_every_gateways_apply(fleet: Fleet, kind: str) -> None:
    public = {"host": "traced.lab.test"} if kind == "http" else {"port": 7700}
    body = {"kind": kind, **public, "targets": [{"agent": "site-a", "port": 8080}]}
    trace_id, answer = write(fleet, "traced", body)
    assert answer["trace_id"] == trace_id
    assert answer["pending"] == []

    ends = {(gateway, SECTIONS[kind]) for gateway in GATEWAYS} | {("site-a", "nftables")}
    roots = {
        ("portal", "PUT /api/v1/services/{name}"),
        ("registry", "store feed.pool.*"),
        ("registry", "registry transaction"),
    }
    applies = {(node, "apply") for node, _ in ends}
    spans = await complete_trace(fleet, trace_id, ends | roots | applies | {("registry", "store feed.agent.*")})

    by_id = {span.span_id: span for span in spans}
    assert [span for span in spans if span.error] == []
    (root,) = [span for span in spans if span.parent_id not in by_id]
    assert (root.process, root.name) == ("portal", "PUT /api/v1/services/{name}")
    for node in (*GATEWAYS, "site-a"):
        section = SECTIONS[kind] if node in GATEWAYS else "nftables"
        leaf = next(span for span in spans if (span.process, span.name) == (node, section))
        path = [f"{span.process}: {span.name}" for span in way_up(leaf, by_id)]
        feed = "feed.pool.*" if node in GATEWAYS else "feed.agent.*"
        assert path == [
            f"{node}: {section}",
            f"{node}: apply",
            f"registry: store {feed}",
            "registry: relay publish",
            "registry: process cp.registry.command",
            "portal: request cp.registry.command",
            "portal: PUT /api/v1/services/{name}",
        ]
        assert any((span.process, span.name) == (node, f"process {feed}") for span in spans)
    (transaction,) = [span for span in spans if span.name == "registry transaction"]
    first_apply = min(span.start_ns for span in spans if span.name == "apply")
    assert root.start_ns < transaction.start_ns < transaction.end_ns < first_apply


def way_up(span: Span, by_id: dict[str, Span]) -> Iterable[Span]:
    while True:
        yield span
        if span.parent_id not in by_id:
            return
        span = by_id[span.parent_id]


async def test_the_event_and_the_log_lines_carry_the_same_trace_id(fleet: Fleet) -> None:
    trace_id, answer = write(
        fleet, "noted", {"kind": "tcp", "port": 7701, "targets": [{"agent": "site-a", "port": 8080}]}
    )

    event = get(fleet, f"/events/{answer['seq']}")
    assert (event["trace_id"], event["fact"]["service_id"]) == (trace_id, "noted")
    logs = {"portal": fleet.control.directory / "log" / "portal.log"}
    logs |= {node: fleet.node_host(node).directory / "gateway.log" for node in GATEWAYS}
    logs["site-a"] = fleet.node_host("site-a").directory / "agent.log"
    for process, path in logs.items():
        lines = [json.loads(line) for line in path.read_text().splitlines() if trace_id in line]
        assert [line["event"] for line in lines if line["trace_id"] == trace_id], process
