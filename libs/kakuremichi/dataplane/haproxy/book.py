"""What the reconciler knows: desired services, their numbers, and the texts they become in the files. No I/O."""

from collections.abc import Iterable, Mapping

from kakuremichi.dataplane.haproxy.config import describe, render_backend, render_config, render_route
from kakuremichi.dataplane.haproxy.desired import Frontend, HttpService, Server, Tuning
from kakuremichi.dataplane.haproxy.diff import Route, Wanted
from kakuremichi.dataplane.haproxy.files import Files, Layout
from kakuremichi.dataplane.haproxy.pool import Pool
from kakuremichi.model.ids import ServiceId


class Book:
    """Texts are kept per service, so that one change among 10,000 renders one service and joins the rest."""

    def __init__(self, frontend: Frontend, tuning: Tuning, layout: Layout, pool: Pool) -> None:
        self.pool = pool
        self._frontend, self._tuning, self._layout = frontend, tuning, layout
        self._services: dict[ServiceId, HttpService] = {}
        # Those who ask for a key, the one put last at the end: it has the key, and when it goes the one before.
        self._claims: dict[str, list[ServiceId]] = {}
        self._blocks: dict[int, str] = {}
        self._freed: list[ServiceId] = []

    def __contains__(self, service: ServiceId) -> bool:
        return service in self._services

    def services(self) -> Mapping[ServiceId, HttpService]:
        return self._services

    def keys_of(self, service: ServiceId) -> frozenset[str]:
        """The route keys that lead to it now: none if another service has taken its name since."""
        held = self._services.get(service)
        return frozenset((held.route_key,)) if held and self._claims[held.route_key][-1] == service else frozenset()

    def put(self, service: HttpService) -> int:
        """Replace the service whole. Of two with one host the one put last has it. Raises PoolExhaustedError."""
        number = self.pool.assign(service.id)
        self._forget(service.id)
        self._services[service.id] = service
        self._claims.setdefault(service.route_key, []).append(service.id)
        self._blocks[number] = render_backend(number, service.servers)
        if service.id in self._freed:
            self._freed.remove(service.id)
        return number

    def remove(self, service: ServiceId) -> None:
        """The number stays taken until `free` says that the backend is empty."""
        self._forget(service)
        if (number := self.pool.number(service)) is not None:
            self._blocks.pop(number, None)

    def free(self, service: ServiceId) -> None:
        """The backend is empty. Its number may be given away once files without the old owner are saved: HAProxy
        may be started from the saved ones at any moment, and must not lead the old name to the new owner's servers.
        """
        if service not in self._services and service not in self._freed:
            self._freed.append(service)

    def saved(self, freed: Iterable[ServiceId]) -> None:
        """Files rendered when `freed` were free have reached the disk."""
        for service in freed:
            if service in self._freed:
                self._freed.remove(service)
                self.pool.release(service)

    def freed(self) -> tuple[ServiceId, ...]:
        return tuple(self._freed)

    def wanted(self) -> Wanted:
        numbered = [(self._number(service.id), service) for service in self._services.values()]
        return Wanted(
            routes={key: self._route(claims[-1]) for key, claims in self._claims.items()},
            servers={number: _by_name(service) for number, service in numbered},
        )

    def wanted_part(self, numbers: Iterable[int], keys: Iterable[str]) -> Wanted:
        owners = {number: self.pool.owner(number) for number in numbers}
        return Wanted(
            routes={key: self._route(self._claims[key][-1]) for key in keys if key in self._claims},
            servers={
                number: _by_name(self._services[owner]) if owner in self._services else {}
                for number, owner in owners.items()
            },
        )

    def wants(self, number: int, name: str) -> bool:
        """Whether the server belongs there after all."""
        return name in self.wanted_part((number,), ()).servers.get(number, {})

    def description(self) -> str:
        return describe(self._frontend, self._tuning, self._layout, self.pool.size)

    def files(self) -> Files:
        routes = [render_route(key, self._route(claims[-1])) for key, claims in self._claims.items()]
        config = render_config(self._frontend, self._tuning, self._layout, self.pool.size, self._blocks)
        return Files(config, "".join(routes))

    def _forget(self, service: ServiceId) -> None:
        held = self._services.pop(service, None)
        if held is not None:
            self._claims[held.route_key].remove(service)
            if not self._claims[held.route_key]:
                del self._claims[held.route_key]

    def _route(self, service: ServiceId) -> Route:
        return Route(self._number(service), service, self._services[service].route_state)

    def _number(self, service: ServiceId) -> int:
        number = self.pool.number(service)
        if number is None:
            raise KeyError(service)
        return number


def _by_name(service: HttpService) -> dict[str, Server]:
    return {server.name: server for server in service.servers}
