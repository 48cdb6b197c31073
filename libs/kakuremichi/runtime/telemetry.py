"""Tracing for a process: where its spans go. Nothing has to be running for a service to run."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from kakuremichi.runtime.sampling import of_changes
from kakuremichi.runtime.trace_file import JsonLinesExporter

log = structlog.get_logger(__name__)

TRACE_FILE = "KAKUREMICHI_TRACE_FILE"
TRACES = "KAKUREMICHI_TRACES"
_OTLP = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_FILE_DELAY_MS = 200


def setup_telemetry(
    service: str, *, version: str = "", instance: str = "", environ: Mapping[str, str] = os.environ
) -> Callable[[], None]:
    """Send this process's spans where the environment says; the result flushes and ends it, call it last.

    `OTEL_EXPORTER_OTLP_ENDPOINT` (with the extra `otlp`) and `KAKUREMICHI_TRACE_FILE`, either, both or none. With
    none the spans of changes are recorded for who takes them later, unless `KAKUREMICHI_TRACES` is `off`.
    """
    provider = make_provider(service, version=version, instance=instance, environ=environ)
    trace.set_tracer_provider(provider)
    return provider.shutdown


def make_provider(
    service: str, *, version: str = "", instance: str = "", environ: Mapping[str, str] = os.environ
) -> TracerProvider:
    attributes = {"service.name": f"kakuremichi-{service}", "service.namespace": "kakuremichi"}
    if version:
        attributes["service.version"] = version
    if instance:
        attributes["service.instance.id"] = instance
    processors = _processors(environ)
    sampler = _sampler(environ, exported=bool(processors))
    provider = TracerProvider(sampler=sampler, resource=Resource.create(attributes))
    for processor in processors:
        provider.add_span_processor(processor)
    return provider


def _sampler(environ: Mapping[str, str], *, exported: bool) -> Sampler | None:
    """None is what `OTEL_TRACES_SAMPLER` says.

    Spans that are not recorded cost about 3 µs each and still carry ids: logs of all services and the audit log tell
    which lines belong together.
    """
    if exported:
        return None if environ.get("OTEL_TRACES_SAMPLER") else ALWAYS_ON
    return ALWAYS_OFF if environ.get(TRACES) == "off" else of_changes()


def _processors(environ: Mapping[str, str]) -> list[SpanProcessor]:
    processors: list[SpanProcessor] = []
    if any(environ.get(name) for name in _OTLP):
        processors += _otlp()
    if file := environ.get(TRACE_FILE):
        processors.append(BatchSpanProcessor(JsonLinesExporter(Path(file)), schedule_delay_millis=_FILE_DELAY_MS))
    return processors


def _otlp() -> list[SpanProcessor]:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    except ImportError:
        log.warning("OTLP is configured but its exporter is not installed", remedy="pip install 'kakuremichi[otlp]'")
        return []
    return [BatchSpanProcessor(OTLPSpanExporter())]
