"""/api/v1/state, /api/v1/diff and /api/v1/audit/export: the past, a page at a time."""

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Raw, Struct, structs

from kakuremichi.wire import history
from kakuremichi.wire.facts import LoggedFact
from kakuremichi_portal.decoding import query_int, query_text
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import API, Access, Call, Query, Route, json_response

MAX_SEQ = 2**63 - 1
FOLD_WITHIN_S = 60.0  # of a log that has no snapshot yet
MOMENT = {"type": "string", "maxLength": 40}
AFTER = Query("after", "`next_after` of the page before.", {"type": "integer", "minimum": 0, "default": 0})

STATE_AFTER = Query("state_after", "`next_state` of the page before.", {"type": "integer", "minimum": 0, "default": 0})


class StatePlace(Struct, frozen=True, kw_only=True):
    log_id: str
    seq: Annotated[int, Meta(description="The log's row that it is the state after.")]
    hash: Annotated[str, Meta(description="Hex; the log's hash chain after that row.")]
    at: Annotated[str, Meta(description="When that row was written; empty before the first.")]
    moment: Annotated[str, Meta(description="What had expired by then is left out.")]
    digest: Annotated[str, Meta(description="Hex; SHA-256 of all canonical lines, see docs/audit.md.")]
    count: int


class State(Struct, frozen=True, kw_only=True):
    place: StatePlace
    items: Annotated[tuple[Raw, ...], Meta(description="Canonical rows, each with its `table`.")]
    next_after: Annotated[int, Meta(description="0: this is the last page.")]


class Touch(Struct, frozen=True, kw_only=True):
    seq: int
    at: str
    actor: str
    topic: str


class Change(Struct, frozen=True, kw_only=True):
    """`before` or `after` is null where there is no such row."""

    before: Raw
    after: Raw
    by: Annotated[Touch | None, Meta(description="The last event in between that was about it.")]


class Diff(Struct, frozen=True, kw_only=True):
    since: StatePlace
    until: StatePlace
    count: int
    items: tuple[Change, ...]
    next_after: int


class ExportedCheckpoint(Struct, frozen=True, kw_only=True):
    size: int
    signed: Annotated[str, Meta(description="Base64, as published.")]
    witnesses: Annotated[tuple[str, ...], Meta(description="Base64, one for each gateway.")]


class ExportedBegin(Struct, frozen=True, kw_only=True):
    """Rows up to `seq` have left the log with an earlier export."""

    seq: int
    hash: Annotated[str, Meta(description="Hex; the log's hash chain after that row.")]
    at: Annotated[str, Meta(description="When that row was written.")]
    roots: Annotated[tuple[str, ...], Meta(description="Base64, of the perfect subtrees over rows 1 to `seq`.")]
    export_sha256: Annotated[str, Meta(description="Hex; of the file that the row left with.")]
    states: Annotated[int, Meta(description="Rows of the state after that row.")]
    state_sha256: Annotated[str, Meta(description="Hex; over these rows, each with a line feed.")]


class LogExport(Struct, frozen=True, kw_only=True):
    log_id: str
    deployment: Annotated[str, Meta(description="Base64.")]
    trust: Annotated[str, Meta(description="Base64 of the signed trust set.")]
    feed_key: Annotated[str, Meta(description="Base64 of the feed key's certificate.")]
    items: Annotated[tuple[LoggedFact, ...], Meta(description="Rows as `audit.<topic>` carries them.")]
    checkpoints: Annotated[tuple[ExportedCheckpoint, ...], Meta(description="Of sizes among these rows.")]
    last: Annotated[int, Meta(description="How far the log has come.")]
    next_after: int
    begin: Annotated[ExportedBegin | None, Meta(description="Not null: `state` in place of rows.")]
    state: Annotated[tuple[str, ...], Meta(description="Rows of the state at the beginning, as text.")]
    next_state: Annotated[int, Meta(description="Not 0: ask for the rest with it as `state_after`.")]


class HistoryRoutes:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def routes(self) -> tuple[Route, ...]:
        at = Query("at", "A `seq`, or a time as RFC 3339 with its zone; now is the default.", MOMENT)
        moment = Query("moment", "With a `seq`: leave out what had expired by this time; default that row's.", MOMENT)
        since = Query("from", "The earlier of the two: a `seq` or a time.", MOMENT)
        until = Query("to", "The other; now is the default.", MOMENT)
        read, refusals = Access.READ, (400, 404, 422)
        return (
            Route("GET", f"{API}/state", "getState", "The whole state at any moment.", read,
                  self.state, {200: State}, query=(at, moment, AFTER), refusals=refusals),
            Route("GET", f"{API}/diff", "getDiff", "What is different between two moments, and since which event.",
                  read, self.diff, {200: Diff}, query=(since, until, AFTER), refusals=refusals),
            Route("GET", f"{API}/audit/export", "exportLog", "The log with its checkpoints, to be verified offline.",
                  read, self.export, {200: LogExport}, query=(AFTER, STATE_AFTER), refusals=(400,)),
        )  # fmt: skip

    async def state(self, call: Call) -> web.Response:
        moment = _moment(query_text(call.request, "at", 40))
        if moment.seq >= 0:
            moment = history.Moment(seq=moment.seq, at=query_text(call.request, "moment", 40))
        request = history.ReadState(actor=call.actor, moment=moment, after=_after(call))
        page = await self._registry.past(request, history.StatePage, timeout_s=FOLD_WITHIN_S)
        items = tuple(Raw(line.encode()) for line in page.lines)
        return json_response(State(place=_place(page.place), items=items, next_after=page.next_after))

    async def diff(self, call: Call) -> web.Response:
        since, until = (_moment(query_text(call.request, name, 40)) for name in ("from", "to"))
        request = history.ReadDiff(actor=call.actor, since=since, until=until, after=_after(call))
        page = await self._registry.past(request, history.DiffPage, timeout_s=FOLD_WITHIN_S)
        return json_response(
            Diff(
                since=_place(page.since), until=_place(page.until), count=page.count,
                items=tuple(map(_change, page.changes)), next_after=page.next_after,
            )
        )  # fmt: skip

    async def export(self, call: Call) -> web.Response:
        rest = query_int(call.request, "state_after", 0, least=0, most=MAX_SEQ)
        request = history.ReadLog(actor=call.actor, after=_after(call), state_after=rest)
        page = await self._registry.past(request, history.LogPage)
        return json_response(
            LogExport(
                log_id=page.log_id, deployment=_base64(page.deployment), trust=_base64(page.trust),
                feed_key=_base64(page.feed_key), items=page.rows, last=page.last, next_after=page.next_after,
                begin=_begin(page.begin), state=page.state, next_state=page.next_state,
                checkpoints=tuple(
                    ExportedCheckpoint(
                        size=each.size, signed=_base64(each.signed), witnesses=tuple(map(_base64, each.witnesses))
                    )
                    for each in page.checkpoints
                ),
            )
        )  # fmt: skip


def _after(call: Call) -> int:
    return query_int(call.request, "after", 0, least=0, most=MAX_SEQ)


def _moment(text: str) -> history.Moment:
    if text.isascii() and text.isdigit() and len(text) < 19:
        return history.Moment(seq=int(text))
    return history.Moment(at=text)


def _place(place: history.StatePlace) -> StatePlace:
    return msgspec.convert(place, StatePlace, from_attributes=True)


def _begin(begin: history.LogBegin | None) -> ExportedBegin | None:
    if begin is None:
        return None
    return ExportedBegin(**structs.asdict(begin) | {"roots": tuple(map(_base64, begin.roots))})


def _change(change: history.RowChange) -> Change:
    before, after = (Raw(line.encode() or b"null") for line in (change.before, change.after))
    return Change(before=before, after=after, by=msgspec.convert(change.by, Touch | None, from_attributes=True))


def _base64(raw: bytes) -> str:
    text: str = msgspec.to_builtins(raw)
    return text
