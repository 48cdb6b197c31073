import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from kakuremichi.runtime.logs import setup_logs


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level, config = root.handlers, root.level, structlog.get_config()
    stream = io.StringIO()
    setup_logs("demo", stream=stream)
    yield stream
    root.handlers, root.level = handlers, level
    structlog.configure(**config)


def only(stream: io.StringIO) -> dict[str, object]:
    (line,) = stream.getvalue().splitlines()
    parsed: dict[str, object] = json.loads(line)
    return parsed


def test_a_line_is_json_with_service_level_and_fields(lines: io.StringIO) -> None:
    structlog.get_logger("kakuremichi.x").info("feed item applied", feed_seq=7)

    line = only(lines)
    assert line["event"] == "feed item applied"
    assert (line["service"], line["level"], line["logger"], line["feed_seq"]) == ("demo", "info", "kakuremichi.x", 7)
    assert str(line["at"]).endswith("Z")


def test_a_logger_without_a_name_has_that_of_its_module(lines: io.StringIO) -> None:
    structlog.get_logger().warning("here")

    assert (only(lines)["logger"], only(lines)["level"]) == (__name__, "warning")


def test_what_is_no_json_is_written_all_the_same(lines: io.StringIO) -> None:
    structlog.get_logger().info("odd", values={1, 2}, path=Path("/x"), half="\ud800")

    assert only(lines)["path"] == "PosixPath('/x')"


def test_a_log_that_cannot_be_written_stops_nobody(lines: io.StringIO) -> None:
    lines.close()
    structlog.get_logger().info("nobody hears this")

    assert lines.closed


def test_logs_of_libraries_look_the_same(lines: io.StringIO) -> None:
    logging.getLogger("nats.aio.client").error("nats: %s", "encountered error")

    line = only(lines)
    assert (line["event"], line["service"], line["level"]) == ("nats: encountered error", "demo", "error")


def test_a_line_inside_a_span_names_it(lines: io.StringIO) -> None:
    with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("s") as span:
        structlog.get_logger().info("inside")

    context = span.get_span_context()
    assert only(lines)["trace_id"] == f"{context.trace_id:032x}"
    assert only(lines)["span_id"] == f"{context.span_id:016x}"


def test_a_traceback_shows_no_local_variables(lines: io.StringIO) -> None:
    def fail() -> None:
        password = "open" + "sesame"
        raise ValueError(len(password))

    try:
        fail()
    except ValueError:
        structlog.get_logger().exception("failed")

    assert "opensesame" not in lines.getvalue()
    assert only(lines)["exception"]


def test_the_noise_of_tls_ends_and_lower_levels_are_left_out(lines: io.StringIO) -> None:
    logging.getLogger("asyncio").warning("returning true from eof_received() has no effect when using ssl")
    structlog.get_logger().debug("detail")

    assert lines.getvalue() == ""
