"""Figures, goals and how they are printed: a table for people on stderr, one JSON object a figure on stdout."""

import statistics
import sys
import tomllib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

GOALS = Path(__file__).with_name("goals.toml")
PAIRS = 7


class Goal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a figure has to reach: one bound, or `figure_only`, said aloud so that no bound is forgotten in silence."""

    unit: str
    what: str
    at_least: float | None = None
    at_most: float | None = None
    figure_only: bool = False

    def __post_init__(self) -> None:
        if [self.at_least is not None, self.at_most is not None, self.figure_only].count(True) != 1:
            raise ValueError("needs exactly one of at_least, at_most and figure_only")

    def met(self, value: float | None) -> bool:
        """No value is not met: a figure that was skipped or could not be taken does not pass, with or without bound."""
        if value is None:
            return False
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def text(self) -> str:
        if self.figure_only:
            return "none, figure only"
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. `samples` are what it was computed from; `note` says what a reader has to know."""

    name: str
    value: float | None
    samples: Sequence[float] = ()
    note: str = ""


class Line(msgspec.Struct, frozen=True):
    """What is printed on standard output."""

    name: str
    value: float | None
    unit: str
    goal: str
    met: bool
    command: str
    minimum: float | None = None
    maximum: float | None = None
    samples: int = 0
    note: str = ""


@dataclass
class Book:
    """All figures of one run, in the order of the goals."""

    goals: dict[str, Goal] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)

    def add(self, *figures: Figure) -> None:
        for figure in figures:
            if figure.name not in self.goals:
                raise KeyError(f"figure {figure.name}: goals.toml does not name it")
            self.figures[figure.name] = figure

    def lines(self, only: str) -> list[Line]:
        return [self._line(name) for name in self.goals if only in name]

    def _line(self, name: str) -> Line:
        goal, figure = self.goals[name], self.figures.get(name, Figure(name, None, note="not measured"))
        return Line(
            name=name,
            value=None if figure.value is None else round(figure.value, 4),
            unit=goal.unit,
            goal=goal.text(),
            met=goal.met(figure.value),
            command=f"make bench ONLY={name}",
            minimum=round(min(figure.samples), 4) if figure.samples else None,
            maximum=round(max(figure.samples), 4) if figure.samples else None,
            samples=len(figure.samples),
            note=figure.note,
        )


def read_goals() -> dict[str, Goal]:
    return msgspec.convert(tomllib.loads(GOALS.read_text()), dict[str, Goal])


async def ratio(
    name: str, ours: Callable[[], Awaitable[float]], baseline: Callable[[], Awaitable[float]], *, pairs: int = PAIRS
) -> Figure:
    """ours ÷ baseline, the median of interleaved pairs; which of the two goes first alternates."""
    samples = []
    for number in range(pairs):
        order = (ours, baseline) if number % 2 == 0 else (baseline, ours)
        first, second = await order[0](), await order[1]()
        mine, theirs = (first, second) if number % 2 == 0 else (second, first)
        samples.append(mine / theirs)
        progress(f"{name} pair {number + 1} of {pairs}: {mine:,.2f} ÷ {theirs:,.2f} = {samples[-1]:.3f}")
    return Figure(name, statistics.median(samples), samples)


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of all do not exceed."""
    ordered = sorted(samples)
    place = max(0, -(-len(ordered) * percent // 100) - 1)
    return ordered[int(place)]


def progress(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)  # noqa: T201  # this is its output


def print_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for people."""
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def _console() -> Console:
    # Into a file or a pipe too, a name is never cut off.
    return Console(stderr=True, width=None if sys.stderr.isatty() else 120)


def print_lines(lines: Sequence[Line]) -> None:
    table = Table(title="kakuremichi bench")
    for column in ("figure", "value", "min … max", "goal", "met"):
        table.add_column(column)
    for line in lines:
        value = "-" if line.value is None else f"{line.value:g} {line.unit}"
        spread = "" if line.minimum is None else f"{line.minimum:g} … {line.maximum:g} ({line.samples})"
        table.add_row(line.name, value, spread, line.goal, "yes" if line.met else "NO")
    _console().print(table)
    for line in lines:
        sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.flush()
