"""What the portal asks the registry about the past: states, what changed between two of them, and the log itself."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from kakuremichi.wire.commands import Command, Problem, Result
from kakuremichi.wire.facts import LoggedFact

Place = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Moment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of the log, or a time; with neither it is now."""

    seq: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = -1  # -1: not said
    at: Annotated[str, Meta(max_length=40)] = ""  # RFC 3339


class Within(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of who asks: rows outside of them are left out. Empty is all."""

    pools: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    agents: Annotated[tuple[str, ...], Meta(max_length=256)] = ()


class ReadState(Command, frozen=True, kw_only=True, tag="read-state.v1"):
    moment: Moment
    after: Place = 0  # lines to leave out
    within: Within | UnsetType = UNSET  # unset: everything


class ReadDiff(Command, frozen=True, kw_only=True, tag="read-diff.v1"):
    since: Moment
    until: Moment
    after: Place = 0  # changes to leave out
    within: Within | UnsetType = UNSET


class ReadLog(Command, frozen=True, kw_only=True, tag="read-log.v1"):
    """Rows after `after`, with the checkpoints among them, as an export has them.

    Where these rows have left, the answer is where the log begins, and the state there from row `state_after` on.
    """

    after: Place = 0
    state_after: Place = 0


AnyHistoryRequest = ReadState | ReadDiff | ReadLog


class StatePlace(Struct, frozen=True, kw_only=True):
    """Which state: that after row `seq`, looked at when it was `moment`."""

    log_id: str
    seq: int
    hash: str  # hex, of that row
    at: str  # of that row, "" before the first
    moment: str
    digest: str  # hex, see kakuremichi.audit.state
    count: int  # lines


class StatePage(Result, frozen=True, kw_only=True, tag="state-page.v1"):
    place: StatePlace
    lines: tuple[str, ...]  # canonical rows
    next_after: int = 0  # there is more: ask again with it and with the place's `seq` and `moment`


class Touch(Struct, frozen=True, kw_only=True):
    """The last event that had to do with a row."""

    seq: int
    at: str
    actor: str
    topic: str


class RowChange(Struct, frozen=True, kw_only=True):
    """`before` and `after` are canonical lines, "" where there is no such row."""

    before: str
    after: str
    by: Touch | None = None


class DiffPage(Result, frozen=True, kw_only=True, tag="diff-page.v1"):
    since: StatePlace
    until: StatePlace
    count: int
    changes: tuple[RowChange, ...]
    next_after: int = 0


class CheckpointView(Struct, frozen=True, kw_only=True):
    size: int
    signed: bytes  # Signed Checkpoint
    witnesses: tuple[bytes, ...]  # Cosignature, each


class LogBegin(Struct, frozen=True, kw_only=True):
    """Rows up to `seq` have left; see `kakuremichi.audit.export.Begin`."""

    seq: int
    hash: str
    at: str
    roots: tuple[bytes, ...]
    export_sha256: str
    states: int
    state_sha256: str


class LogPage(Result, frozen=True, kw_only=True, tag="log-page.v1"):
    log_id: str
    deployment: bytes
    trust: bytes  # Signed TrustSet
    feed_key: bytes  # Signed FeedKeyCertificate
    rows: tuple[LoggedFact, ...]
    checkpoints: tuple[CheckpointView, ...]
    last: int  # how far the log has come
    next_after: int = 0
    begin: LogBegin | None = None  # then `state` in place of rows
    state: tuple[str, ...] = ()
    next_state: int = 0  # there is more of it: ask again with it as `state_after`, and with the same `after`


AnyHistoryResult = StatePage | DiffPage | LogPage | Problem
