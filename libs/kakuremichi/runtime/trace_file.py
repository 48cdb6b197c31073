"""Spans as JSON lines in a file: traces without a collector, for the lab, the tests and a first look."""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = structlog.get_logger(__name__)


class JsonLinesExporter(SpanExporter):
    """Appends a batch with one write, so that several processes may share the file. Called in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        lines = b"".join(msgspec.json.encode(span_record(span)) + b"\n" for span in spans)
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, lines)
            finally:
                os.close(descriptor)
        except OSError as error:
            if not self._failed:  # once: a full disk would otherwise fill the logs too
                self._failed = True
                log.warning("trace file not written", path=str(self._path), reason=str(error))
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS


def span_record(span: ReadableSpan) -> dict[str, object]:
    """One line: ids in hex, times in nanoseconds since 1970, `parent_id` "" for a root, `error` "" if all went well."""
    context = span.get_span_context()
    return {
        "name": span.name,
        "trace_id": trace.format_trace_id(context.trace_id) if context else "",
        "span_id": trace.format_span_id(context.span_id) if context else "",
        "parent_id": trace.format_span_id(span.parent.span_id) if span.parent else "",
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "kind": span.kind.name.lower(),
        "error": "" if span.status.is_ok else span.status.description or "error",
        "attributes": dict(span.attributes or {}),
        "links": [trace.format_trace_id(link.context.trace_id) for link in span.links],
        "resource": dict(span.resource.attributes),
    }
