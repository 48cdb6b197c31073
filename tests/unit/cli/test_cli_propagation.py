"""What people see of a change's way: a drawn line for each node, and the spans as a tree."""

from typing import Any

from kakuremichi.cli.propagation import WIDTH, _drawn, _tree


def stage(name: str, start_ms: float, end_ms: float) -> dict[str, Any]:
    return {"name": name, "start_ms": start_ms, "end_ms": end_ms}


def span(span_id: str, parent_id: str, name: str, offset_ms: float = 0.0) -> dict[str, Any]:
    return {
        "span_id": span_id, "parent_id": parent_id, "name": name, "process": "p", "offset_ms": offset_ms,
        "duration_ms": 1.0, "error": "",
    }  # fmt: skip


def test_each_stage_has_its_part_of_the_line() -> None:
    way = [stage("deliver", 0, 10), stage("decide", 10, 20), stage("apply", 20, 30), stage("report", 30, 40)]
    assert _drawn(way, 40.0) == "·" * 10 + "-" * 10 + "=" * 10 + ">" * 10
    assert _drawn(way, 80.0) == "·" * 5 + "-" * 5 + "=" * 5 + ">" * 5
    assert len(_drawn(way, 40.0)) == WIDTH


def test_a_node_that_said_no_times_has_no_line() -> None:
    assert _drawn([], 40.0) == ""
    assert _drawn([stage("report", 0, 0)], 0.0) == ""


def test_spans_stand_below_what_caused_them_in_the_order_of_their_start() -> None:
    spans = [span("1", "", "PUT"), span("2", "1", "commit", 1), span("3", "1", "relay", 2), span("4", "2", "lock", 3)]
    assert [row[0] for row in _tree(spans)] == ["PUT", "  commit", "    lock", "  relay"]


def test_a_span_whose_cause_is_not_kept_is_shown_all_the_same() -> None:
    assert [row[0] for row in _tree([span("2", "9", "apply"), span("3", "2", "haproxy")])] == ["apply", "  haproxy"]


def test_spans_that_say_they_cause_each_other_do_not_turn_in_circles() -> None:
    rows = _tree([span("1", "", "PUT"), span("2", "3", "a"), span("3", "2", "b"), span("4", "4", "self")])
    assert [row[0] for row in rows] == ["PUT"]
