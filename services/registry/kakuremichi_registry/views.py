"""What people see: nodes, services, tokens and events, each page cut so that it fits into one message."""

from collections.abc import Iterable
from typing import Literal, TypeVar

import asyncpg
import msgspec
from msgspec import UNSET

from kakuremichi.model.addresses import AddressRefusedError, parse_network
from kakuremichi.model.ids import ServiceId
from kakuremichi.model.keys import key_text
from kakuremichi.model.options import NO_OPTIONS
from kakuremichi.runtime.trace_context import trace_id
from kakuremichi.wire.codec import WireError, decode_any, encode
from kakuremichi.wire.commands import (
    EventPositions,
    Events,
    EventView,
    ListEvents,
    ListNodes,
    ListPositions,
    ListServices,
    ListTokens,
    Nodes,
    NodeView,
    Positions,
    Services,
    ServiceView,
    TargetView,
    Tokens,
    TokenView,
)
from kakuremichi.wire.requests import AnyReport, Report
from kakuremichi_registry.contexts import ServiceRow
from kakuremichi_registry.database import Database
from kakuremichi_registry.enrolment import instant
from kakuremichi_registry.gathered import Gathered
from kakuremichi_registry.store import lists
from kakuremichi_registry.store.entries import text_of

PAGE_BYTES = 56_000  # of 65,536 that a message may have
V = TypeVar("V")


class Views:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._one_service = Gathered(self._services_of)

    async def nodes(self, command: ListNodes) -> Nodes:
        rows = await lists.nodes(self._database, command)
        views, more = fitting(map(node_view, rows))
        return Nodes(
            items=views, next_after=views[-1].node_id if more or len(rows) == lists.most(command) else "",
            updated_seqs=tuple(row["updated_seq"] for row in rows[: len(views)]),
        )  # fmt: skip

    async def services(self, command: ListServices) -> Services:
        if command == ListServices(actor=command.actor, service_id=command.service_id) and _may_be(command.service_id):
            view = await self._one_service.get(ServiceId(command.service_id))
            return Services(items=(view,) if view else ())
        rows = await lists.services(self._database, command)
        errors = errors_by_path(await lists.reports_with_errors(self._database)) if rows else {}
        views, more = fitting(service_view(row, errors) for row in rows)
        return Services(
            items=views, next_after=views[-1].service_id if more or len(rows) == lists.most(command) else ""
        )

    async def _services_of(self, names: list[ServiceId]) -> dict[ServiceId, ServiceView]:
        rows, reports = await lists.services_of(self._database, names)
        errors = errors_by_path(reports)
        return {row.service_id: service_view(row, errors) for row in rows}

    async def tokens(self, command: ListTokens) -> Tokens:
        rows = await lists.tokens(self._database, command)
        views, more = fitting(map(token_view, rows))
        last = rows[len(views) - 1]["place"] if views else ""
        return Tokens(items=views, next_after=last if more or len(rows) == lists.most(command) else "")

    async def events(self, command: ListEvents) -> Events:
        rows = await lists.events(self._database, command)
        views, more = fitting(map(event_view, rows))
        return Events(items=views, next_after=views[-1].seq if more or len(rows) == command.limit else UNSET)

    async def positions(self, command: ListPositions) -> Positions:
        rows = await lists.positions(self._database, command.seq, command.limit)
        log_id = rows[0]["log_id"] if rows else ""
        return Positions(log_id=log_id, items=fitting(map(event_positions, rows))[0])


def _may_be(name: str) -> bool:
    """Whether a service could have this name. PostgreSQL takes no NUL, and others are looked up together with it."""
    return bool(name) and "\0" not in name


def fitting(views: Iterable[V], limit_bytes: int = PAGE_BYTES) -> tuple[tuple[V, ...], bool]:
    """As many views, from the first, as fit into one message; whether any was left out."""
    chosen: list[V] = []
    size = 0
    for view in views:
        size += len(encode(view)) + 1
        if chosen and size > limit_bytes:
            return tuple(chosen), True
        chosen.append(view)
    return tuple(chosen), False


def node_view(row: asyncpg.Record) -> NodeView:
    report = _report(row["report"])
    heads: dict[str, int] = msgspec.json.decode(row["heads"], type=dict[str, int])
    cursors = {cursor.feed: cursor.feed_seq for cursor in report.cursors} if report else {}
    return NodeView(
        node_id=row["node_id"], role=row["role"], pool=row["pool"], slot=row["slot"] or 0,
        subnet=str(row["subnet"] or ""), endpoints=tuple(row["endpoints"]),
        public_key=key_text(row["public_key"]) if row["public_key"] else "", epoch=row["epoch"],
        state=_state(row, report),
        last_report_at=instant(row["reported_at"]) if row["reported_at"] else "",
        cursors=tuple(sorted(cursors.items())),
        behind=0
        if row["revoked"]
        else sum(max(0, feed_seq - cursors.get(feed, 0)) for feed, feed_seq in heads.items()),
        errors=tuple((error.key, error.message) for error in report.errors) if report else (),
        warnings=_warnings(row, report),
        version=report.version if report else "",
    )  # fmt: skip


def _state(
    row: asyncpg.Record, report: Report | None
) -> Literal["pending", "enrolled", "live", "offline", "quarantined", "revoked"]:
    if row["revoked"]:
        return "revoked"
    if row["pending"]:
        return "pending"
    if row["quarantined"]:
        return "quarantined"
    if row["live"]:
        return "live"
    return "offline" if report else "enrolled"


def _warnings(row: asyncpg.Record, report: Report | None) -> tuple[str, ...]:
    if report is None:
        return ()
    warnings = [*report.held, *report.warnings]
    if row["subnet"] is not None:
        for text in report.networks:
            try:
                network = parse_network(text)
            except AddressRefusedError:
                continue
            if network.version == 4 and network.overlaps(row["subnet"]) and network != row["subnet"]:
                warnings.append(f"subnet-conflict: {text} of the site overlaps the tunnel's {row['subnet']}")
    return tuple(warnings)


def _report(data: bytes | None) -> Report | None:
    """A stored report; one of another release that is not understood counts as none."""
    if data is None:
        return None
    try:
        report: Report = decode_any(data, AnyReport, name="report")
    except WireError:
        return None
    return report


Errors = dict[str, list[tuple[str, str]]]


def errors_by_path(rows: Iterable[asyncpg.Record]) -> Errors:
    """ "kind/key" → (node, sentence) of live nodes."""
    errors: Errors = {}
    for row in rows:
        report = _report(row["report"])
        for error in report.errors if report else ():
            errors.setdefault(error.key, []).append((row["node_id"], error.message))
    return errors


def service_view(row: ServiceRow, errors: Errors) -> ServiceView:
    paths = [f"route/{row.service_id}", *(f"target/{target.target_id}" for target in row.targets)]
    return ServiceView(
        service_id=row.service_id, pool=row.pool, kind=row.kind, host=row.host, path=row.path,
        first_port=row.first_port, last_port=row.last_port, sources=row.sources,
        targets=tuple(
            TargetView(
                target_id=target.target_id, agent=target.agent, address=target.address, port=target.port,
                agent_port=target.agent_port,
            )
            for target in row.targets
        ),
        state="active" if row.targets else "no-target",
        carried_by="haproxy" if row.kind == "http" or row.options.upstream.proxy_protocol else "nftables",
        updated_seq=row.updated_seq,
        errors=tuple(error for path in paths for error in errors.get(path, ()))[:32],
        options=UNSET if row.options == NO_OPTIONS else row.options,
        source=row.source or UNSET,
    )  # fmt: skip


def token_view(row: asyncpg.Record) -> TokenView:
    return TokenView(
        token_id=row["token_id"], role=row["role"], node_id=row["node_id"], pool=row["pool"],
        expires_at=instant(row["expires_at"]),
        state="used" if row["used_at"] else "expired" if row["expired"] else "open",
    )  # fmt: skip


def event_view(row: asyncpg.Record) -> EventView:
    return EventView(
        seq=row["seq"], at=text_of(row["at"]), actor=row["actor"], topic=row["topic"], fact=row["fact"],
        trace_id=trace_id(row["traceparent"]), head=row["hash"].hex(),
    )  # fmt: skip


def event_positions(row: asyncpg.Record) -> EventPositions:
    return EventPositions(
        seq=row["seq"], at=text_of(row["at"]), topic=row["topic"], trace_id=trace_id(row["traceparent"]),
        positions=msgspec.json.decode(row["positions"], type=tuple[tuple[str, int], ...]),
    )  # fmt: skip
