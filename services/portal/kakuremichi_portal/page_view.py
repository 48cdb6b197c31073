"""What the status page shows, out of the registry's views. Pure; sentences for people, no markup."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from kakuremichi.wire.commands import EventView, NodeView, ServiceView, TargetView

Tone = Literal["good", "wait", "bad", "plain"]
CARRIED_BY = {"nftables": "nftables (no listening socket)", "haproxy": "haproxy"}


@dataclass(frozen=True, slots=True)
class Status:
    tone: Tone
    text: str


@dataclass(frozen=True, slots=True)
class NodeRow:
    name: str
    pool: str
    address: str
    status: Status
    seen: str
    changes: Status
    version: str
    troubles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServiceRow:
    name: str
    where: str
    who: str
    targets: tuple[str, ...]
    carried_by: str
    status: Status
    applied: Status
    troubles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EventRow:
    seq: int
    at: str
    clock: str
    topic: str
    about: str
    actor: str
    trace_id: str


@dataclass(frozen=True, slots=True)
class Figure:
    label: str
    value: str
    note: str
    tone: Tone


@dataclass(frozen=True, slots=True)
class Page:
    gateways: tuple[NodeRow, ...]
    agents: tuple[NodeRow, ...]
    services: tuple[ServiceRow, ...]
    events: tuple[EventRow, ...]
    figures: tuple[Figure, ...]
    headline: Status


def page(
    gateways: tuple[NodeView, ...],
    agents: tuple[NodeView, ...],
    services: tuple[ServiceView, ...],
    events: tuple[EventView, ...],
    now: datetime,
) -> Page:
    rows = tuple(service_row(service, gateways) for service in services)
    nodes = (*(node_row(node, now) for node in gateways), *(node_row(node, now) for node in agents))
    statuses = [(row.status, row.troubles) for row in rows] + [(row.status, row.troubles) for row in nodes]
    troubled = sum(status.tone == "bad" or bool(troubles) for status, troubles in statuses)
    return Page(
        gateways=nodes[: len(gateways)],
        agents=nodes[len(gateways) :],
        services=rows,
        events=tuple(event_row(event) for event in events),
        figures=(
            _nodes_figure("Gateways", gateways),
            _nodes_figure("Agents", agents),
            _services_figure(services, rows),
        ),
        headline=_headline(troubled, empty=not nodes and not rows),
    )


def _headline(troubled: int, *, empty: bool) -> Status:
    if empty:
        return Status("plain", "Nothing has joined yet")
    if troubled == 0:
        return Status("good", "Everything is as it should be")
    return Status("bad", "One thing needs a look" if troubled == 1 else f"{troubled} things need a look")


def _nodes_figure(label: str, nodes: tuple[NodeView, ...]) -> Figure:
    nodes = tuple(node for node in nodes if node.state != "revoked")  # cut off for ever: nobody waits for it
    live = sum(node.state == "live" for node in nodes)
    offline = sum(node.state == "offline" for node in nodes)
    note = f"{offline} offline" if offline else ("all live" if nodes and live == len(nodes) else "")
    return Figure(label, f"{live} of {len(nodes)}", note or "live", "bad" if offline else "good" if live else "plain")


def _services_figure(services: tuple[ServiceView, ...], rows: tuple[ServiceRow, ...]) -> Figure:
    active = sum(service.state == "active" for service in services)
    everywhere = sum(row.applied.tone == "good" for row in rows)
    tone: Tone = "plain" if not rows else "good" if active == everywhere == len(rows) else "wait"
    return Figure("Services", str(len(rows)), f"{everywhere} applied on every gateway" if rows else "none yet", tone)


def node_row(node: NodeView, now: datetime) -> NodeRow:
    tones: dict[str, Tone] = {"live": "good", "enrolled": "plain", "revoked": "plain"}
    texts = {"enrolled": "enrolled, not seen yet", "quarantined": "quarantined: two holders of its identity were seen"}
    return NodeRow(
        name=node.node_id,
        pool=node.pool,
        address=", ".join(node.endpoints) if node.role == "gateway" else node.subnet,
        status=Status(tones.get(node.state, "bad"), texts.get(node.state, node.state)),
        seen=ago(node.last_report_at, now),
        changes=_changes(node),
        version=node.version,
        troubles=(*(f"{key}: {message}" for key, message in node.errors), *node.warnings),
    )


def _changes(node: NodeView) -> Status:
    if node.state == "enrolled":
        return Status("plain", "none yet")
    if node.behind == 0:
        return Status("good", "all applied")
    return Status("wait", "1 to come" if node.behind == 1 else f"{node.behind} to come")


def service_row(service: ServiceView, gateways: tuple[NodeView, ...]) -> ServiceRow:
    active = service.state == "active"
    return ServiceRow(
        name=service.service_id,
        where=where(service),
        who=", ".join(service.sources) or "everybody",
        targets=tuple(target(one) for one in service.targets),
        carried_by=CARRIED_BY[service.carried_by],
        status=Status("good", "active") if active else Status("bad", "no target"),
        applied=applied(service, gateways),
        troubles=tuple(f"{node}: {message}" for node, message in service.errors),
    )


def applied(service: ServiceView, gateways: tuple[NodeView, ...]) -> Status:
    """On how many of the pool's gateways: those that are behind in nothing and report no error about it."""
    pool = [node for node in gateways if node.pool == service.pool]
    troubled = {node for node, _ in service.errors}
    done = sum(node.behind == 0 and node.state != "enrolled" and node.node_id not in troubled for node in pool)
    return Status("good" if pool and done == len(pool) else "wait", f"{done} of {len(pool)}")


def where(service: ServiceView) -> str:
    if service.kind in ("http", "tls"):
        return f"{service.kind}://{service.host}{service.path}"
    ports = str(service.first_port)
    if service.last_port > service.first_port:
        ports += f"-{service.last_port}"
    return f"{service.kind} {ports}"


def target(view: TargetView) -> str:
    address = f"[{view.address}]" if ":" in view.address else view.address
    return f"{view.agent} → {address}:{view.port}"


def event_row(event: EventView) -> EventRow:
    return EventRow(
        seq=event.seq,
        at=event.at,
        clock=_clock(event.at),
        topic=event.topic,
        about=_about(event.fact),
        actor=event.actor,
        trace_id=event.trace_id,
    )


def _about(fact: str) -> str:
    try:
        known: Any = msgspec.json.decode(fact)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    if not isinstance(known, dict):
        return ""
    names = ("service_id", "node_id", "account", "who", "name")
    return str(next((known[name] for name in names if known.get(name)), ""))


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _clock(text: str) -> str:
    moment = _moment(text)
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if moment else text


def ago(text: str, now: datetime) -> str:
    moment = _moment(text)
    if moment is None:
        return "never"
    seconds = max(0, round((now - moment).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
