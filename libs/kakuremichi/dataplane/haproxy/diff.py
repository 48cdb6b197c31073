"""Which steps lead from what HAProxy holds to what it shall hold. Pure."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

from kakuremichi.dataplane.haproxy.desired import RouteState, Server
from kakuremichi.dataplane.haproxy.naming import backend_name, parse_backend
from kakuremichi.model.ids import ServiceId, is_token


class Route(NamedTuple):
    """A value of the route maps, `<backend>|<service>|<state>`: only our own ids, never a visitor's or user's text."""

    number: int
    service: ServiceId
    state: RouteState = RouteState.ACTIVE

    def __str__(self) -> str:
        return f"{backend_name(self.number)}|{self.service}|{self.state}"


@dataclass(frozen=True, slots=True)
class ActualServer:
    address: str  # as `str(IPAddress)` prints it
    port: int
    weight: int
    ready: bool  # False: in maintenance, so without new connections


@dataclass(frozen=True, slots=True)
class Actual:
    """What was read back. Both may be a part: then they are compared with the same part of the desired state.

    `routes` has every value of a key, as `add map` makes duplicates; None stands for a value that is not ours.
    """

    routes: Mapping[str, frozenset[Route | None]]
    servers: Mapping[int, Mapping[str, ActualServer]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The desired state with its numbers. A number that is to be emptied has an empty mapping."""

    routes: Mapping[str, Route]
    servers: Mapping[int, Mapping[str, Server]]


@dataclass(frozen=True, slots=True)
class AddMap:
    key: str
    route: Route


@dataclass(frozen=True, slots=True)
class SetMap:
    key: str
    route: Route


@dataclass(frozen=True, slots=True)
class DelMap:
    key: str


@dataclass(frozen=True, slots=True)
class AddServer:
    number: int
    server: Server


@dataclass(frozen=True, slots=True)
class MoveServer:
    """Another address or port under the same name; new connections go there at once."""

    number: int
    server: Server


@dataclass(frozen=True, slots=True)
class WeighServer:
    number: int
    server: Server


@dataclass(frozen=True, slots=True)
class EnableServer:
    """Out of maintenance again: its removal was begun and is no longer wanted."""

    number: int
    name: str


@dataclass(frozen=True, slots=True)
class RemoveServer:
    number: int
    name: str
    cut: bool = False  # end its open connections too


@dataclass(frozen=True, slots=True)
class CutServer:
    """End its open connections and let it get no new ones; it stays configured."""

    number: int
    name: str


MapStep = AddMap | SetMap | DelMap
ServerStep = AddServer | MoveServer | WeighServer | EnableServer | RemoveServer | CutServer
Step = MapStep | ServerStep


@dataclass(slots=True)
class _Phases:
    """In the order in which they are applied."""

    closed: list[Step] = field(default_factory=list)
    strangers: list[Step] = field(default_factory=list)
    servers: list[Step] = field(default_factory=list)
    opened: list[Step] = field(default_factory=list)
    stale: list[Step] = field(default_factory=list)

    def all(self) -> tuple[Step, ...]:
        return (*self.closed, *self.strangers, *self.servers, *self.opened, *self.stale)


def steps_between(actual: Actual, wanted: Wanted, *, cut: bool = False) -> tuple[Step, ...]:
    """Names that go are closed first. A new service gets its servers before its name, so that nobody finds it
    empty; a known one keeps its old servers until the new ones stand. A backend that changes hands is emptied
    before the name leads into it: no visitor may meet the former owner's servers.
    """
    phases = _Phases()
    phases.closed.extend(DelMap(key) for key in sorted(actual.routes.keys() - wanted.routes.keys()))
    for key in sorted(wanted.routes):
        phases.opened.extend(_route_steps(key, actual.routes.get(key), wanted.routes[key]))
    now = _owners(route for values in actual.routes.values() for route in values)
    then = _owners(wanted.routes.values())
    for number in sorted(actual.servers.keys() | wanted.servers.keys()):
        held, asked = actual.servers.get(number, {}), wanted.servers.get(number, {})
        for name in sorted(asked):
            phases.servers.extend(_server_steps(number, held.get(name), asked[name]))
        removals = [RemoveServer(number, name, cut) for name in sorted(held.keys() - asked.keys())]
        same_owner = now.get(number) == then.get(number)
        (phases.stale if same_owner else phases.strangers).extend(removals)
    return phases.all()


def cuts(actual: Actual, addresses: AbstractSet[str]) -> tuple[CutServer, ...]:
    """Every server at one of these addresses, also those that are being removed and wait for their last connections."""
    return tuple(
        CutServer(number, name)
        for number in sorted(actual.servers)
        for name, server in sorted(actual.servers[number].items())
        if server.address in addresses
    )


def _owners(routes: Iterable[Route | None]) -> dict[int, frozenset[ServiceId]]:
    owners: dict[int, set[ServiceId]] = {}
    for route in routes:
        if route is not None:
            owners.setdefault(route.number, set()).add(route.service)
    return {number: frozenset(services) for number, services in owners.items()}


def _route_steps(key: str, held: frozenset[Route | None] | None, route: Route) -> list[Step]:
    if not held:
        return [AddMap(key, route)]
    # `set map` changes every duplicate of the key, so equal duplicates do no harm; the next reload drops them.
    return [] if held == {route} else [SetMap(key, route)]


def _server_steps(number: int, held: ActualServer | None, server: Server) -> list[Step]:
    if held is None:
        return [AddServer(number, server)]
    steps: list[Step] = []
    if (held.address, held.port) != (str(server.address), server.port):
        steps.append(MoveServer(number, server))
    if held.weight != server.weight:
        steps.append(WeighServer(number, server))
    if not held.ready:  # last: it must not meet visitors with the old address
        steps.append(EnableServer(number, server.name))
    return steps


def parse_route(value: str) -> Route | None:
    """A value of the route maps; None if it is not one of ours."""
    backend, _, rest = value.partition("|")
    service, _, state = rest.partition("|")
    number = parse_backend(backend)
    if number is None or not is_token(service) or state not in set(RouteState):
        return None
    return Route(number, ServiceId(service), RouteState(state))
