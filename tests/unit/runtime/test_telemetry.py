import json
import time
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, Status, StatusCode

from kakuremichi.runtime.sampling import BURST, PER_S, Beginnings
from kakuremichi.runtime.telemetry import make_provider
from kakuremichi.runtime.trace_context import continued, current_traceparent, extract, inject, trace_id

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_spans_become_lines_of_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    provider = make_provider("registry", instance="r1", environ={"KAKUREMICHI_TRACE_FILE": str(path)})
    tracer = provider.get_tracer("test")

    with tracer.start_as_current_span("outer", attributes={"n": 1}), tracer.start_as_current_span("inner") as inner:
        inner.set_status(Status(StatusCode.ERROR, "no route"))
    provider.shutdown()

    child, parent = read(path)
    assert (child["name"], child["parent_id"], child["trace_id"]) == ("inner", parent["span_id"], parent["trace_id"])
    assert (parent["parent_id"], parent["attributes"], parent["error"]) == ("", {"n": 1}, "")
    assert child["error"] == "no route"
    assert 0 <= int(str(child["end_ns"])) - int(str(child["start_ns"])) < 1_000_000_000
    resource = parent["resource"]
    assert isinstance(resource, dict)
    assert (resource["service.name"], resource["service.instance.id"]) == ("kakuremichi-registry", "r1")
    assert path.stat().st_mode & 0o777 == 0o600


def test_several_processes_may_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    providers = [make_provider(name, environ={"KAKUREMICHI_TRACE_FILE": str(path)}) for name in ("registry", "portal")]

    for provider in providers:
        for number in range(600):
            provider.get_tracer("test").start_span(f"span {number}").end()
    for provider in providers:
        provider.shutdown()

    assert len(read(path)) == 1200


def test_a_file_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    provider = make_provider("registry", environ={"KAKUREMICHI_TRACE_FILE": str(tmp_path / "absent" / "file")})
    provider.get_tracer("test").start_span("x").end()
    provider.shutdown()


def test_a_sampled_out_parent_elsewhere_does_not_blind_this_process(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    provider = make_provider("gateway", environ={"KAKUREMICHI_TRACE_FILE": str(path)})
    unsampled = extract({"traceparent": PARENT[:-2] + "00"})
    provider.get_tracer("test").start_span("apply", context=unsampled).end()
    provider.shutdown()

    assert read(path)[0]["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


def test_without_an_exporter_spans_carry_ids_and_cost_next_to_nothing() -> None:
    tracer = make_provider("agent", environ={}).get_tracer("test")
    with tracer.start_as_current_span("root"):
        assert trace_id(current_traceparent())

    began = time.perf_counter()
    for _ in range(1000):
        tracer.start_span("x", attributes={"a": 1}).end()
    assert (time.perf_counter() - began) / 1000 < 200e-6  # about 3 µs on an idle machine


def test_the_context_goes_through_headers_and_columns() -> None:
    provider = make_provider("portal", environ={})
    headers: dict[str, str] = {}
    with continued(PARENT), provider.get_tracer("test").start_as_current_span("s"):
        column = current_traceparent()
        inject(headers)

    assert headers["traceparent"] == column
    assert trace_id(column) == trace_id(PARENT) == "0af7651916cd43dd8448eb211c80319c"
    assert current_traceparent() == ""


def test_what_is_no_traceparent_is_no_parent() -> None:
    for text in ("", "junk", "00-0-0-01", PARENT.upper()[:-5]):
        assert trace_id(text) == ""
        with continued(text):
            assert not trace.get_current_span().get_span_context().is_valid


def recorded(provider: TracerProvider, kind: SpanKind, parent: str = "", **attributes: str) -> bool:
    context = extract({"traceparent": parent}) if parent else None
    span = provider.get_tracer("test").start_span("x", context=context, kind=kind, attributes=attributes)
    return span.is_recording()


def test_without_an_exporter_changes_are_recorded_and_what_they_cause() -> None:
    provider = make_provider("portal", environ={})
    assert recorded(provider, SpanKind.SERVER, **{"http.request.method": "PUT"})
    assert recorded(provider, SpanKind.CLIENT, **{"messaging.destination.template": "req.keyring.announce.*"})
    assert recorded(provider, SpanKind.INTERNAL, PARENT)
    assert not recorded(provider, SpanKind.SERVER, **{"http.request.method": "GET"})
    assert not recorded(provider, SpanKind.CLIENT, **{"messaging.destination.template": "report.*"})
    assert not recorded(provider, SpanKind.CONSUMER)
    assert not recorded(provider, SpanKind.INTERNAL, PARENT[:-2] + "00")


def test_nothing_is_recorded_once_that_is_off() -> None:
    provider = make_provider("portal", environ={"KAKUREMICHI_TRACES": "off"})
    assert not recorded(provider, SpanKind.SERVER, **{"http.request.method": "PUT"})
    assert not recorded(provider, SpanKind.INTERNAL, PARENT)


def test_of_a_flood_of_changes_some_are_recorded_and_all_have_ids() -> None:
    now = 0.0
    sampler = Beginnings(lambda: now)
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)

    def begin() -> bool:
        span = provider.get_tracer("test").start_span(
            "x", kind=SpanKind.SERVER, attributes={"http.request.method": "PUT"}
        )
        assert span.get_span_context().is_valid
        return span.is_recording()

    assert sum(begin() for _ in range(500)) == BURST
    now = 1.0
    assert sum(begin() for _ in range(500)) == PER_S
    now = 1000.0
    assert sum(begin() for _ in range(500)) == BURST
