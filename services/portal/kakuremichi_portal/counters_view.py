"""What gateways have counted of a service, as the API shows it: each gateway's and the sum of them. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct, field

from kakuremichi.model.ids import NodeId
from kakuremichi.wire.commands import ServiceView
from kakuremichi.wire.counters import Counted, CountersTold
from kakuremichi.wire.records import Kind
from kakuremichi_portal.shapes import Listed, NodeError


class Statuses(Struct, frozen=True, kw_only=True):
    """Answers by class of status."""

    informational: int = field(name="1xx")
    successful: int = field(name="2xx")
    redirected: int = field(name="3xx")
    client_error: int = field(name="4xx")
    server_error: int = field(name="5xx")


class Counts(Struct, frozen=True, kw_only=True):
    """null is what nobody counts for this kind of service, or what a gateway could not count now."""

    connections: Annotated[int | None, Meta(description="Of tcp; flows of udp.")]
    open: Annotated[int | None, Meta(description="At this moment: connections, flows, or requests being answered.")]
    requests: int | None
    statuses: Statuses | None
    bytes_in: Annotated[int | None, Meta(description="From visitors; of tcp and udp with the packets' headers.")]
    bytes_out: Annotated[int | None, Meta(description="To them, likewise.")]
    packets_in: int | None
    packets_out: int | None
    denied: Annotated[int | None, Meta(description="Requests that a rule of the service refused.")]
    limited: Annotated[int | None, Meta(description="First packets of connections beyond a limit.")]
    connect_errors: Annotated[int | None, Meta(description="Attempts to connect to a target that failed.")]
    response_errors: Annotated[int | None, Meta(description="Answers of targets that broke off or were none.")]
    rate: Annotated[float | None, Meta(description="New connections, flows or requests a second, just now.")]


class GatewayCounts(Counts, frozen=True, kw_only=True):
    node: str
    counting_s: Annotated[float, Meta(description="How long its process has been counting what HAProxy carries.")]


class ServiceTotal(Struct, frozen=True, kw_only=True):
    name: str
    kind: Kind
    pool: str
    total: Annotated[Counts, Meta(description="Over the gateways that answered.")]


class ServiceCounters(ServiceTotal, frozen=True, kw_only=True):
    gateways: tuple[GatewayCounts, ...]
    silent: Annotated[tuple[str, ...], Meta(description="Gateways of the pool that did not answer.")]
    errors: Annotated[tuple[NodeError, ...], Meta(description="What gateways that answered could not count, and why.")]


class CountersList(Listed, frozen=True, kw_only=True):
    items: tuple[ServiceTotal, ...]
    silent: Annotated[tuple[str, ...], Meta(description="Gateways that did not answer.")]
    errors: tuple[NodeError, ...]


Answers = Mapping[NodeId, CountersTold]

_FIELDS = tuple(name for name in Counts.__struct_fields__ if name != "statuses")


def one_service(view: ServiceView, answers: Answers, asked: Collection[NodeId]) -> ServiceCounters:
    """`asked` are the gateways of its pool."""
    found = {
        node: counted
        for node, told in answers.items()
        for counted in told.services
        if counted.service_id == view.service_id
    }
    errors = [error for node, told in answers.items() for error in _errors(node, told)]
    complained = {error.node for error in errors}
    errors += [
        NodeError(node=node, message="this gateway does not serve it, or not yet")
        for node in answers
        if node not in found and node not in complained
    ]
    return ServiceCounters(
        name=view.service_id,
        kind=view.kind,
        pool=view.pool,
        total=_total(tuple(found.values())),
        gateways=tuple(_of_gateway(node, found[node], answers[node].counting_s) for node in sorted(found)),
        silent=tuple(sorted(set(asked) - answers.keys())),
        errors=tuple(sorted(errors, key=lambda error: error.node)),
    )


def by_service(parts: Iterable[Answers]) -> dict[str, list[Counted]]:
    """What all gateways have counted, from answers that are about different services each."""
    found: dict[str, list[Counted]] = {}
    for answers in parts:
        for told in answers.values():
            for counted in told.services:
                found.setdefault(counted.service_id, []).append(counted)
    return found


def service_total(view: ServiceView, found: Sequence[Counted]) -> ServiceTotal:
    return ServiceTotal(name=view.service_id, kind=view.kind, pool=view.pool, total=_total(found))


def errors_of(parts: Iterable[Answers]) -> tuple[NodeError, ...]:
    """Each sentence of a gateway once."""
    found = {(e.node, e.message): e for answers in parts for node, told in answers.items() for e in _errors(node, told)}
    return tuple(found[key] for key in sorted(found))


def _errors(node: NodeId, told: CountersTold) -> list[NodeError]:
    return [NodeError(node=node, message=message) for message in told.errors]


def _of_gateway(node: NodeId, counted: Counted, counting_s: float) -> GatewayCounts:
    return GatewayCounts(node=node, counting_s=round(counting_s, 1), **_fields((counted,)))


def _total(found: Sequence[Counted]) -> Counts:
    return Counts(**_fields(found))


def _fields(found: Sequence[Counted]) -> dict[str, Any]:
    sums: dict[str, Any] = {name: _sum([getattr(counted, name) for counted in found]) for name in _FIELDS}
    return {**sums, "statuses": _statuses([counted.statuses for counted in found if counted.statuses])}


def _statuses(known: Sequence[tuple[int, ...]]) -> Statuses | None:
    """All gateways count a service alike: those of http by status, those of the other kinds not at all."""
    if not known:
        return None
    classes = (sum(column) for column in zip(*known, strict=True))
    return Statuses(**dict(zip(Statuses.__struct_fields__, classes, strict=True)))


def _sum(values: Sequence[float | None]) -> float | None:
    """A part that is not known makes the sum unknown; so does having none."""
    known = [value for value in values if value is not None]
    return round(sum(known), 3) if known and len(known) == len(values) else None
