"""One trace from the HTTP request to what each gateway has done, in spans, in the log of events and in log lines."""

import asyncio
import http.client
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kakuremichi.fleet.api import ApiError
from kakuremichi.fleet.lab_fleet import AGENTS, GATEWAYS, PORTAL_PORT, Fleet
from kakuremichi.lab.units import Unit
from kakuremichi.runtime.tls import client_context
from support.fleet import get
from support.processes import processes_with

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]  # whoever comes first starts the fleet

RECEIVER = Path(__file__).parents[1] / "support" / "otlp_receiver.py"
COLLECTOR_PORT = 4318
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
        connection.request("PUT", f"/api/v1/services/{name}?wait=applied&timeout=25", json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.headers["X-Trace-Id"], json.loads(answer.read())
    finally:
        connection.close()


async def complete_trace(fleet: Fleet, trace_id: str, wanted: set[tuple[str, str]]) -> list[Span]:
    """The spans once these (process, name) and all parents are on disk: exporters write late, each for itself."""
    deadline = time.monotonic() + 10
    while True:
        spans = spans_of(fleet, trace_id)
        missing = wanted - {(span.process, span.name) for span in spans}
        missing |= {(span.process, f"parent of {span.name}") for span in roots(spans)[1:]}
        if not missing:
            return spans
        assert time.monotonic() < deadline, f"not in the trace: {sorted(missing)}"
        await asyncio.sleep(0.1)


def roots(spans: list[Span]) -> list[Span]:
    """Those without a parent among them, the first that began at the head."""
    known = {span.span_id for span in spans}
    return sorted((span for span in spans if span.parent_id not in known), key=lambda span: span.start_ns)


@pytest.mark.parametrize("kind", ["http", "tcp"])
async def test_one_trace_leads_from_the_http_request_to_every_gateways_apply(fleet: Fleet, kind: str) -> None:
    public = {"host": "traced.lab.test"} if kind == "http" else {"port": 7700}
    body = {"kind": kind, **public, "targets": [{"agent": "site-a", "port": 8080}]}
    trace_id, answer = write(fleet, "traced", body)
    assert answer["trace_id"] == trace_id
    assert answer["pending"] == []

    ends = {(gateway, SECTIONS[kind]) for gateway in GATEWAYS} | {("site-a", "nftables")}
    control = {
        ("portal", "PUT /api/v1/services/{name}"),
        ("registry", "store feed.pool.*"),
        ("registry", "registry transaction"),
    }
    applies = {(node, "apply") for node, _ in ends}
    spans = await complete_trace(fleet, trace_id, ends | control | applies | {("registry", "store feed.agent.*")})

    by_id = {span.span_id: span for span in spans}
    assert [span for span in spans if span.error] == []
    (root,) = roots(spans)
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
    # Not its end: the relay hears of the commit from PostgreSQL itself, maybe before whoever committed does.
    assert root.start_ns < transaction.start_ns < first_apply


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


async def sooner_or_later(
    found: Callable[[], Any], lacks: Callable[[], object] = lambda: "", *, within_s: float = 30
) -> Any:
    """What `found` gives once it gives something; `lacks` is for the sentence if it never does."""
    deadline = time.monotonic() + within_s
    while not (result := found()):
        assert time.monotonic() < deadline, f"it did not come: {lacks()}"
        await asyncio.sleep(0.1)
    return result


async def test_the_portal_itself_shows_the_trace_and_the_way_to_each_node(fleet: Fleet) -> None:
    trace_id, answer = write(
        fleet, "shown", {"kind": "tcp", "port": 7702, "targets": [{"agent": "site-a", "port": 8080}]}
    )
    wanted = {(node, step) for node in (*GATEWAYS, "site-a") for step in ("apply", "nftables", "report")}
    wanted |= {("registry", "registry transaction"), ("portal", "PUT /api/v1/services/{name}")}

    def kept() -> Any:
        try:
            trace = get(fleet, f"/traces/{trace_id}")
        except ApiError as error:
            if error.status != 404:
                raise
            return None  # none of its spans has come yet
        return trace if wanted <= {(span["process"], span["name"]) for span in trace["spans"]} else None

    trace = await sooner_or_later(kept)
    by_id = {span["span_id"]: span for span in trace["spans"]}
    root = next(span for span in trace["spans"] if span["name"] == "PUT /api/v1/services/{name}")
    assert root["process"] == "portal"
    assert root["parent_id"] not in by_id

    way = get(fleet, f"/events/{answer['seq']}/propagation")
    assert (way["trace_id"], way["pending"], way["offline"]) == (trace_id, 0, 0)
    assert {row["node"] for row in way["nodes"]} == {*GATEWAYS, "site-a"}
    for row in way["nodes"]:
        assert row["state"] == "applied"
        assert [stage["name"] for stage in row["stages"]] == ["deliver", "decide", "apply", "report"]
        assert [stage["start_ms"] for stage in row["stages"][1:]] == [stage["end_ms"] for stage in row["stages"][:-1]]
        assert 0 < row["applied_ms"] <= row["stages"][-1]["end_ms"]
    figures = get(fleet, "/propagation?limit=10")
    assert figures["samples"] >= len(way["nodes"])
    assert [stage["name"] for stage in figures["stages"]] == ["deliver", "decide", "apply", "report"]


@pytest.fixture
async def collected(fleet: Fleet) -> AsyncIterator[Path]:
    """The file of a collector that services and nodes send their spans to; they are as before afterwards."""
    file = fleet.directory / "collected.jsonl"
    address = fleet.lab.address("control")
    argv = (sys.executable, str(RECEIVER), address, str(COLLECTOR_PORT), str(file))
    receiver = Unit(name="collector", argv=argv, namespace=fleet.lab.namespace("control"))
    await fleet.units.start(receiver)
    await sooner_or_later(file.exists)
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{address}:{COLLECTOR_PORT}",
        "OTEL_BSP_SCHEDULE_DELAY": "300",
        "NO_PROXY": address,
    }
    try:
        async with processes_with(fleet, lambda _unit: env):
            yield file
    finally:
        await fleet.units.stop("collector")


def received(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def process_of(span: dict[str, Any]) -> str:
    service = str(span["service"]).removeprefix("kakuremichi-")
    return str(span["instance"]) if service in ("gateway", "agent") else service


@pytest.mark.timeout(240)
async def test_a_collector_receives_one_trace_with_each_stage_of_each_node(fleet: Fleet, collected: Path) -> None:
    number = iter(range(100))

    def applied() -> str:
        body = {
            "kind": "http",
            "host": "collected.lab.test",
            "targets": [{"agent": "site-a", "port": 8100 + next(number)}],
        }
        trace_id, answer = write(fleet, "collected", body)
        everybody = {each["node"] for each in answer["applied"]} >= {*GATEWAYS, "site-a"}
        return trace_id if everybody and not answer["pending"] else ""

    trace_id = await sooner_or_later(applied, within_s=60)
    stages = {"process feed.pool.*", "apply", "nftables", "haproxy", "report"}
    wanted = {(gateway, name) for gateway in GATEWAYS for name in stages}
    wanted |= {("site-a", name) for name in ("process feed.agent.*", "apply", "nftables", "report")}
    wanted |= {
        ("portal", "PUT /api/v1/services/{name}"), ("registry", "registry transaction"),
        ("registry", "relay publish"), ("registry", "store feed.pool.*"),
    }  # fmt: skip

    def of_trace() -> list[dict[str, Any]]:
        """A pass or a report that several changes share stands in the trace of one and is linked to the others."""
        return [span for span in received(collected) if trace_id in (span["trace_id"], *span["links"])]

    def lacking() -> set[tuple[str, str]]:
        return wanted - {(process_of(span), span["name"]) for span in of_trace()}

    await sooner_or_later(lambda: not lacking(), lacking)
    spans = of_trace()
    own = {span["span_id"]: span for span in spans if span["trace_id"] == trace_id}
    root = next(span for span in own.values() if span["name"] == "PUT /api/v1/services/{name}")
    assert process_of(root) == "portal"
    assert root["parent_id"] not in own
    assert [span for span in spans if span["error"]] == []
    for gateway in GATEWAYS:
        report = next(span for span in spans if (process_of(span), span["name"]) == (gateway, "report"))
        above = own.get(report["parent_id"])  # of another trace, or not sent yet
        assert above is None or above["name"] == "apply"

    with fleet.api() as api:
        api.post("/agents/site-a/rotate", {})

    everybody = {"site-a", "keyring", "registry", *GATEWAYS}

    def rotated() -> bool:
        """The announcement begins a trace of its own: by way of the keyring into WireGuard on every gateway."""
        spans = received(collected)
        for each in {span["trace_id"] for span in spans if span["name"] == "process req.keyring.announce.*"}:
            found = {(process_of(span), span["name"]) for span in spans if span["trace_id"] == each}
            if {(gateway, "wireguard") for gateway in GATEWAYS} <= found and everybody <= {name for name, _ in found}:
                return True
        return False

    await sooner_or_later(rotated)
