"""What the reconciler knows: desired services, their numbers, and the texts they become in the files. No I/O.

Servers and routes are changed at run time. The rules of a service (its options) stand in its backend, and those that
the running HAProxy has loaded are kept beside those that are desired: where they differ, only a reload helps.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kakuremichi.dataplane.haproxy.config import Settings, describe, render_config
from kakuremichi.dataplane.haproxy.desired import HttpService, Server, Service, ServiceRefusedError
from kakuremichi.dataplane.haproxy.diff import Route, Wanted
from kakuremichi.dataplane.haproxy.files import Files
from kakuremichi.dataplane.haproxy.pieces import Backends, Maps
from kakuremichi.dataplane.haproxy.pool import Pool, Pools
from kakuremichi.dataplane.haproxy.rendering import render_backend, rules_of
from kakuremichi.dataplane.haproxy.transport import authority_digest, linked
from kakuremichi.model.ids import ServiceId


@dataclass(frozen=True, slots=True)
class Place:
    """Where a service is in HAProxy: backends and route keys that are its own now."""

    numbers: frozenset[int] = frozenset()
    keys: frozenset[str] = frozenset()

    def __or__(self, other: "Place") -> "Place":
        return joined((self, other))


def joined(places: Iterable[Place]) -> Place:
    """All of them as one."""
    known = list(places)
    return Place(
        frozenset().union(*(place.numbers for place in known)), frozenset().union(*(place.keys for place in known))
    )


class Book:
    """Texts are kept in pieces, so that one change among 10,000 renders one service and joins one piece anew."""

    def __init__(self, settings: Settings, pools: Pools) -> None:
        self.pools = pools
        self._settings = settings
        self._services: dict[ServiceId, Service] = {}
        # Those who ask for a key, the one put last at the end: it has the key, and when it goes the one before.
        self._claims: dict[str, list[ServiceId]] = {}
        self._servers: dict[ServiceId, dict[str, Server]] = {}
        self._backends = Backends()
        self._maps = Maps()
        self._authorities: dict[ServiceId, str] = {}
        self._described: tuple[tuple[int, int], str] | None = None  # by the sizes of the pools, while no rule changes
        self._freed: list[int] = []
        self._rules: dict[int, str] = {}  # only where there are any
        self._loaded: dict[int, str] = {}
        self._loaded_as = ""  # the description of what is loaded
        self._declared: frozenset[int] = frozenset()
        self._proven: dict[ServiceId, Service] = {}  # as HAProxy has taken them

    def services(self) -> Mapping[ServiceId, Service]:
        return self._services

    def place_of(self, service: ServiceId) -> Place:
        """No keys if other services have taken its names since."""
        held = self._services.get(service)
        if held is None:
            return Place()
        keys = frozenset(key for key in held.route_keys if self._claims[key][-1] == service)
        return Place(frozenset((self._number(held),)), keys)

    def put(self, service: Service) -> None:
        """Replace the service whole. Of two with one key the one put last has it.

        Raises PoolExhaustedError, and ServiceRefusedError for a TCP service without a front end for it.
        """
        if not isinstance(service, HttpService) and not self._settings.frontend.tcp:
            raise ServiceRefusedError(f"service {service.id}: this gateway takes no TCP service through HAProxy")
        number = self._pool(service).assign(service.id)
        left = self._forget(service.id)
        self._services[service.id] = service
        for key in service.route_keys:
            self._claims.setdefault(key, []).append(service.id)
        self._servers[service.id] = linked(service, self._settings.layout)
        if rules := rules_of(service, self._settings):
            self._rules[number] = rules
            self._described = None
        if service.options.upstream.ca:
            self._authorities[service.id] = service.options.upstream.ca
        self._backends.put(number, render_backend(number, self._servers[service.id].values(), rules))
        self._write_routes({*left, *service.route_keys})
        if number in self._freed:
            self._freed.remove(number)
        if self.is_loaded(service.id):
            self._proven[service.id] = service

    def grow_for(self, *services: Service) -> None:
        """Make the pools large enough for them too; if they grow, HAProxy has to be reloaded."""
        for pool in (self.pools.http, self.pools.tcp):
            new = sum(self._pool(service) is pool and pool.number(service.id) is None for service in services)
            if new:
                pool.grow(new)

    def remove(self, service: ServiceId) -> None:
        """The number stays taken until `free` says that the backend is empty."""
        self._write_routes(self._forget(service))
        self._proven.pop(service, None)

    def free(self, number: int) -> None:
        """The backend is empty. Its number may be given away once files without the old owner are saved: HAProxy
        may be started from the saved ones at any moment, and must not lead the old name to the new owner's servers.
        """
        if not self.is_used(number) and number not in self._freed:
            self._freed.append(number)

    def saved(self, freed: Iterable[int]) -> None:
        """Files rendered when `freed` were free have reached the disk. Numbers whose old rules are still loaded wait
        for the next reload: nobody inherits them.
        """
        for number in freed:
            if number in self._freed and number not in self._loaded:
                self._freed.remove(number)
                self.pools.release(number)

    def freed(self) -> tuple[int, ...]:
        return tuple(self._freed)

    def is_used(self, number: int) -> bool:
        return self._user(number) is not None

    def can_change(self, service: ServiceId) -> bool:
        """Whether the running HAProxy has its backend and its rules: then the rest of it is done at run time."""
        return self._number(self._services[service]) in self._declared and self.is_loaded(service)

    def is_loaded(self, service: ServiceId) -> bool:
        """Whether the running HAProxy has its rules, which most services have none of."""
        number = self._number(self._services[service])
        return self._rules.get(number, "") == self._loaded.get(number, "")

    def agrees_with(self, description: str) -> bool:
        """Whether the HAProxy that says this of itself needs no reload. It may hold rules of services that are gone."""
        if description == self.description():
            self.has_loaded()
        return description == self._loaded_as and all(map(self.can_change, self._services))

    def has_loaded(self) -> None:
        """The running HAProxy was started from the present files."""
        self._loaded, self._loaded_as, self._proven = dict(self._rules), self.description(), dict(self._services)
        self._declared = frozenset(self.pools.numbers())

    def unproven(self) -> tuple[Service, ...]:
        """Services whose rules the running HAProxy does not have."""
        return tuple(service for service in self._services.values() if not self.is_loaded(service.id))

    def fall_back(self, services: Iterable[Service]) -> None:
        """Go back to what HAProxy has taken, for a new service to nothing."""
        for service in services:
            proven = self._proven.get(service.id)
            if proven is not None and self._pool(proven) is self._pool(service):
                self.put(proven)
            else:
                self.remove(service.id)

    def wanted(self) -> Wanted:
        return Wanted(
            routes=self._routes(),
            servers={self._number(service): self._servers[service.id] for service in self._services.values()},
        )

    def wanted_part(self, place: Place) -> Wanted:
        users = {number: self._user(number) for number in place.numbers}
        return Wanted(
            routes={key: self._route(self._claims[key][-1]) for key in place.keys if key in self._claims},
            servers={number: self._servers[user] if user else {} for number, user in users.items()},
        )

    def wants(self, number: int, name: str) -> bool:
        """Whether the server belongs there after all."""
        user = self._user(number)
        return user is not None and name in self._servers[user]

    def description(self) -> str:
        sizes = self.pools.sizes
        if self._described is None or self._described[0] != sizes:
            self._described = sizes, describe(self._settings, sizes, self._rules)
        return self._described[1]

    def files(self) -> Files:
        pools = self.pools.http, self.pools.tcp
        backends = (piece for pool in pools for piece in self._backends.pieces(pool.numbers()))
        authorities = {authority_digest(pem): pem for pem in self._authorities.values()}
        config = render_config(self._settings, self.description(), authorities, backends)
        return Files(config, self._maps.texts(), authorities)

    def _forget(self, service: ServiceId) -> tuple[str, ...]:
        """The route keys that it had."""
        held = self._services.pop(service, None)
        if held is None:
            return ()
        number = self._number(held)
        self._backends.drop(number)
        if self._rules.pop(number, None) is not None:
            self._described = None
        self._authorities.pop(service, None)
        del self._servers[service]
        for key in held.route_keys:
            self._claims[key].remove(service)
            if not self._claims[key]:
                del self._claims[key]
        return held.route_keys

    def _write_routes(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key in self._claims:
                self._maps.put(key, self._route(self._claims[key][-1]))
            else:
                self._maps.drop(key)

    def _routes(self) -> dict[str, Route]:
        return {key: self._route(claims[-1]) for key, claims in self._claims.items()}

    def _route(self, service: ServiceId) -> Route:
        held = self._services[service]
        return Route(self._number(held), service, held.route_state)

    def _pool(self, service: Service) -> Pool:
        return self.pools.http if isinstance(service, HttpService) else self.pools.tcp

    def _number(self, service: Service) -> int:
        number = self._pool(service).number(service.id)
        if number is None:
            raise KeyError(service.id)
        return number

    def _user(self, number: int) -> ServiceId | None:
        """Whose backend it is now; an owner that was removed or has moved to the other pool is none."""
        owner = self.pools.owner(number)
        held = self._services.get(owner) if owner is not None else None
        return owner if held is not None and self._number(held) == number else None
