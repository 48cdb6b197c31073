"""The harness of `make bench`: goals as data, what counts as met, what is printed, how the program ends."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from bench import __main__ as program
from bench.harness import Book, Figure, Goal, percentile, print_lines, ratio, read_goals
from bench.spans import Span, Trace, rows_of, steps_of

AT_LEAST = Goal(unit="ratio", what="", at_least=0.9)
AT_MOST = Goal(unit="ms", what="", at_most=25)
FIGURE_ONLY = Goal(unit="1/s", what="", figure_only=True)


class TestGoals:
    def test_each_has_a_unit_and_a_sentence(self) -> None:
        goals = read_goals()

        assert goals
        for name, goal in goals.items():
            assert goal.unit, name
            assert goal.what, name

    def test_each_figure_is_taken_by_exactly_one_measurement(self) -> None:
        taken = [name for measurement in program.MEASUREMENTS for name in measurement.figures]

        assert sorted(read_goals()) == sorted(taken)

    @pytest.mark.parametrize(
        ("goal", "value", "met"),
        [
            (AT_LEAST, 0.9, True),
            (AT_LEAST, 0.8999, False),
            (AT_MOST, 25, True),
            (AT_MOST, 25.01, False),
            (AT_LEAST, None, False),
            (AT_MOST, None, False),
            (FIGURE_ONLY, 0.0, True),
            (FIGURE_ONLY, None, False),
        ],
    )
    def test_the_bound_itself_is_met_and_no_value_is_not(self, goal: Goal, value: float | None, met: bool) -> None:
        assert goal.met(value) is met

    @pytest.mark.parametrize(
        "bounds", [{}, {"at_least": 1.0, "at_most": 2.0}, {"at_most": 2.0, "figure_only": True}], ids=str
    )
    def test_one_without_or_with_two_bounds_is_refused(self, bounds: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="exactly one of at_least, at_most and figure_only"):
            Goal(unit="ms", what="", **bounds)

    def test_a_figure_without_bound_says_so_where_the_goal_stands(self) -> None:
        assert (AT_LEAST.text(), AT_MOST.text(), FIGURE_ONLY.text()) == ("≥ 0.9", "≤ 25", "none, figure only")


class TestBook:
    def test_what_was_not_measured_is_a_line_and_not_met(self) -> None:
        (line,) = Book({"a": AT_LEAST}).lines("")

        assert (line.value, line.met, line.note) == (None, False, "not measured")

    def test_a_line_has_the_spread_and_the_command_that_repeats_it(self) -> None:
        book = Book({"a": AT_LEAST})
        book.add(Figure("a", 1.0, [0.8, 1.0, 1.1]))

        (line,) = book.lines("")

        assert (line.minimum, line.maximum, line.samples) == (0.8, 1.1, 3)
        assert (line.goal, line.met, line.command) == ("≥ 0.9", True, "make bench ONLY=a")

    def test_only_chooses_by_part_of_the_name(self) -> None:
        book = Book({"http_ratio": AT_LEAST, "https_ratio": AT_LEAST, "cold_start": AT_MOST})

        assert [line.name for line in book.lines("http")] == ["http_ratio", "https_ratio"]

    def test_a_figure_without_a_goal_is_refused(self) -> None:
        with pytest.raises(KeyError, match=r"goals\.toml does not name it"):
            Book({}).add(Figure("a", 1.0))

    def test_standard_output_has_one_json_object_a_figure(self, capsys: pytest.CaptureFixture[str]) -> None:
        book = Book({"a": AT_LEAST, "b": AT_MOST})
        book.add(Figure("a", 1.0))

        print_lines(book.lines(""))

        printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(each["name"], each["value"], each["met"]) for each in printed] == [("a", 1, True), ("b", None, False)]
        assert {"unit", "goal", "command"} <= printed[0].keys()


class TestRatio:
    async def test_it_is_the_median_of_pairs_of_which_each_goes_first_in_turn(self) -> None:
        order = []
        ours, baseline = iter([10.0, 20.0, 90.0]), iter([10.0, 10.0, 10.0])

        async def take(name: str, values: Iterator[float]) -> float:
            order.append(name)
            return next(values)

        figure = await ratio("a", lambda: take("ours", ours), lambda: take("baseline", baseline), pairs=3)

        assert figure.value == 2.0
        assert figure.samples == [1.0, 2.0, 9.0]
        assert order == ["ours", "baseline", "baseline", "ours", "ours", "baseline"]


class TestPercentile:
    @pytest.mark.parametrize(("percent", "expected"), [(1, 1), (50, 50), (99, 99), (100, 100)])
    def test_of_a_hundred_it_is_the_nth(self, percent: float, expected: float) -> None:
        assert percentile(list(range(100, 0, -1)), percent) == expected

    def test_p99_of_two_hundred_leaves_two_above(self) -> None:
        assert percentile([1.0] * 198 + [500.0, 500.0], 99) == 1.0
        assert percentile([1.0] * 197 + [500.0] * 3, 99) == 500.0

    def test_of_one_it_is_that_one(self) -> None:
        assert percentile([7.0], 99) == 7.0


def _span(process: str, name: str, start_ms: float, end_ms: float) -> Span:
    return Span(name=name, trace_id="t", start_ns=int(start_ms * 1e6), end_ns=int(end_ms * 1e6), process=process)


class TestSteps:
    TRACE = Trace(
        (
            _span("portal", "POST /api/v1/services", 0, 12),
            _span("registry", "process cp.registry.command", 1, 5),
            _span("registry", "registry transaction", 2, 4),
            _span("registry", "store feed.pool.*", 5, 9),
            _span("gw1", "process feed.pool.*", 6, 6),
            _span("gw1", "apply", 6, 8),
            _span("gw1", "haproxy", 6, 7),
            _span("gw2", "process feed.pool.*", 7, 7),
            _span("gw2", "apply", 7, 10),
            _span("gw2", "haproxy", 7, 10),
        )
    )

    def test_of_gateways_the_slowest_counts_and_the_report_ends_it(self) -> None:
        steps = steps_of(self.TRACE, {"gw1": 9.0, "gw2": 11.5})

        assert steps == {
            "portal → registry": 1,
            "registry decides": 1,
            "registry transaction": 2,
            "relay: commit → published": 1,
            "bus: published → received": 2,
            "gateway: haproxy": 3,
            "gateway: received → applied": 3,
            "report: applied → heard": 1.5,
            "all": 11.5,
        }

    def test_a_trace_that_is_not_whole_gives_no_steps(self) -> None:
        assert steps_of(Trace(self.TRACE.spans[:2]), {"gw1": 9.0}) == {}

    def test_rows_have_the_percentiles_of_each_step(self) -> None:
        assert rows_of([{"all": 1.0}, {"all": 3.0}]) == [("all", "1.00", "3.00", "3.00", "3.00")]


class TestProgram:
    @pytest.fixture(autouse=True)
    def logs_stay_as_they_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(program, "setup_logs", lambda *_args, **_options: None)

    @pytest.mark.parametrize(("value", "code"), [(1.0, 0), (0.5, 1), (None, 1)])
    def test_it_ends_with_one_unless_every_figure_is_met(
        self, monkeypatch: pytest.MonkeyPatch, value: float | None, code: int
    ) -> None:
        async def run(book: Book, _only: str) -> None:
            for name in book.goals:
                book.add(Figure(name, value))

        monkeypatch.setattr(program, "read_goals", lambda: {"a": AT_LEAST, "b": AT_LEAST})
        monkeypatch.setattr(program, "run", run)
        monkeypatch.setattr(program, "is_root", lambda: True)
        monkeypatch.setattr(sys, "argv", ["bench"])

        assert program.main() == code

    def test_without_root_nothing_is_measured_and_nothing_met(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(program, "is_root", lambda: False)
        monkeypatch.setattr(sys, "argv", ["bench", "--only", "tcp"])

        assert program.main() == 1
        assert "needs root" in capsys.readouterr().err

    def test_a_name_that_no_figure_has_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["bench", "--only", "nonsense"])

        assert program.main() == 1

    def test_what_was_measured_before_an_error_is_printed(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async def run(book: Book, _only: str) -> None:
            book.add(Figure("a", 1.0))
            raise RuntimeError("the lab broke")

        monkeypatch.setattr(program, "read_goals", lambda: {"a": AT_LEAST, "b": AT_LEAST})
        monkeypatch.setattr(program, "run", run)
        monkeypatch.setattr(program, "is_root", lambda: True)
        monkeypatch.setattr(sys, "argv", ["bench"])

        assert program.main() == 1
        out, err = capsys.readouterr()
        assert [json.loads(line)["met"] for line in out.splitlines()] == [True, False]
        assert "the lab broke" in err

    async def test_a_measurement_that_fails_gives_figures_without_value(self) -> None:
        async def fails(_stage: object) -> list[Figure]:
            raise RuntimeError("no tunnel")

        figures = await program.take(program.Measurement(("a", "b"), fails), None)  # type: ignore[arg-type]

        assert [(figure.name, figure.value, figure.note) for figure in figures] == [
            ("a", None, "no tunnel"),
            ("b", None, "no tunnel"),
        ]
