"""Where a command looks at the past: an export of the log, without any server, or the portal."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Protocol

import click

from kakuremichi.audit import export
from kakuremichi.audit.beginning import opening
from kakuremichi.audit.diff import Change, Touches, changes
from kakuremichi.audit.fold import FoldError
from kakuremichi.audit.moments import Moment, MomentError, parse_moment, state_at
from kakuremichi.audit.rows import canonical
from kakuremichi.audit.state import State, digest, later
from kakuremichi.cli.client import Client
from kakuremichi.cli.context import resolve
from kakuremichi.cli.exits import UNREACHABLE, USAGE, CliError
from kakuremichi.cli.options import portal_options

PAST_TIMEOUT_S = 90.0  # a log without snapshots is folded from its first row

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """A state: where in the log it is, and its canonical lines."""

    place: Json
    lines: list[str]


@dataclass(frozen=True, slots=True)
class Difference:
    since: Json
    until: Json
    changes: list[Json]  # before, after: rows or None; by: the event or None


class Past(Protocol):
    def state(self, moment: str) -> Shown: ...
    def diff(self, since: str, until: str) -> Difference: ...


class FromPortal:
    def __init__(self, client: Client) -> None:
        self._client = client

    def state(self, moment: str) -> Shown:
        page = self._get("state", at=moment)
        place, items = page["place"], page["items"]
        while page["next_after"]:
            # The state of a row and a moment stays what it is while its pages are read.
            page = self._get("state", at=str(place["seq"]), moment=place["moment"], after=str(page["next_after"]))
            items += page["items"]
        lines = [json.dumps(item, separators=(",", ":"), ensure_ascii=False) for item in items]
        if digest(line.encode() for line in lines) != place["digest"]:
            raise CliError("state: what came is not what the portal says it is; ask again", UNREACHABLE)
        return Shown(place, lines)

    def diff(self, since: str, until: str) -> Difference:
        asked = {"from": since, "to": until}
        page = self._get("diff", **asked)
        first, last, items = page["since"], page["until"], page["items"]
        while page["next_after"]:
            if until == "now":  # another now would be another difference
                asked["to"] = last["moment"]
            page = self._get("diff", **asked, after=str(page["next_after"]))
            items += page["items"]
        return Difference(first, last, items)

    def _get(self, what: str, **query: str) -> Json:
        given = {name: value for name, value in query.items() if value not in ("", "now")}
        return self._client.call("GET", what, query=given, timeout_s=PAST_TIMEOUT_S)


class FromFile:
    """An export. What it says is believed here: `kakuremichi audit verify` is for doubts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def state(self, moment: str) -> Shown:
        return _shown(*self.fold(moment))

    def fold(self, moment: str) -> tuple[State, str]:
        """(state, moment that it is looked at)."""
        with sentences(self._path):
            wanted = parse_moment(moment)
            state = self._fold(wanted)
        return state, wanted.at if later(wanted.at, state.at) else state.at

    def diff(self, since: str, until: str) -> Difference:
        (before, first), (after, last) = self.fold(since), self.fold(until)
        touches = Touches()
        earlier, later = sorted((before.seq, after.seq))
        with sentences(self._path), self._path.open("rb") as lines:
            touches.add(row for row in export.rows(lines) if earlier < row.seq <= later)
        found = changes(before.rows(first), after.rows(last))
        places = _shown(before, first).place, _shown(after, last).place
        return Difference(*places, [_change(change, touches) for change in found])

    def _fold(self, moment: Moment) -> State:
        with self._path.open("rb") as lines:
            base = opening(lines).state
            lines.seek(0)
            return state_at(export.rows(lines), moment, base)


def _shown(state: State, moment: str) -> Shown:
    lines = state.lines(moment)
    place = {
        "log_id": state.log_id, "seq": state.seq, "hash": state.hash.hex(), "at": state.at, "moment": moment,
        "digest": digest(lines), "count": len(lines),
    }  # fmt: skip
    return Shown(place, [line.decode() for line in lines])


def _change(change: Change, touches: Touches) -> Json:
    row = touches.of(change.row)
    return {
        "before": json.loads(canonical(change.before)) if change.before else None,
        "after": json.loads(canonical(change.after)) if change.after else None,
        "by": {"seq": row.seq, "at": row.at, "actor": row.actor, "topic": row.topic} if row else None,
    }


@contextmanager
def sentences(path: Path) -> Iterator[None]:
    """What is wrong with a file or a moment, as one sentence and exit code 2."""
    try:
        yield
    except MomentError as error:
        raise CliError(str(error), USAGE) from error
    except (export.ExportError, FoldError) as error:
        raise CliError(f"{path}: {error}", USAGE) from error
    except OSError as error:
        raise CliError(f"{path}: {error.strerror or error}", USAGE) from error


def with_past(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command a :class:`Past` as its first argument: `--from FILE`, else the portal."""

    @click.option(
        "--from", "file", type=click.Path(path_type=Path), metavar="FILE",
        help="An export by `audit export`, instead of the portal: no server is needed.",
    )  # fmt: skip
    @portal_options
    @wraps(command)
    def wrapped(*, file: Path | None, url: str | None, token_file: Path | None, ca_file: Path | None, **given: Any) -> None:  # fmt: skip  # noqa: E501
        past = FromFile(file) if file else FromPortal(Client(resolve(url, token_file, ca_file)))
        command(past, **given)

    return wrapped
