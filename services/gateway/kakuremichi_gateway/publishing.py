"""The services of a gateway in nftables and HAProxy."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from kakuremichi.dataplane.haproxy.desired import HttpService, Server, ServiceRefusedError
from kakuremichi.dataplane.haproxy.reconcile import Reconciler as ProxyReconciler
from kakuremichi.dataplane.nftables import conntrack
from kakuremichi.dataplane.nftables.device import Table
from kakuremichi.dataplane.nftables.elements import Elements, ItemRefusedError, Ports
from kakuremichi.dataplane.nftables.errors import TableError
from kakuremichi.dataplane.nftables.gateway import GatewayTable, L4Service, gateway_desired, gateway_elements
from kakuremichi.dataplane.nftables.marks import Proto, number_of
from kakuremichi.dataplane.nftables.reconcile import Reconciler as TableReconciler
from kakuremichi.dataplane.nftables.reconcile import Report
from kakuremichi.model.ids import ServiceId
from kakuremichi.reconcile.holding import Key
from kakuremichi_gateway.model import GatewayModel, RouteFacts

Errors = Mapping[Key, str]
TABLE: Key = ("route", "*")  # what concerns all services


def route_key(service: ServiceId) -> Key:
    return ("route", str(service))


@dataclass
class Numbers:
    """Service numbers: local to this gateway, kept while the service lives, so that its flows keep their mark."""

    by_service: dict[ServiceId, int] = field(default_factory=dict)
    adopted: dict[tuple[str, int], int] = field(default_factory=dict)  # (proto, first port) → number in the kernel
    highest: int = 0

    def of(self, facts: RouteFacts) -> int:
        number = self.by_service.get(facts.service_id)
        if number is None:
            number = self.adopted.pop((facts.kind, facts.first_port), 0)
            if not number:
                self.highest += 1
                number = self.highest
            self.by_service[facts.service_id] = number
        return number

    def adopt(self, elements: Iterable[tuple[str, tuple[str, ...], tuple[str, ...]]]) -> None:
        """Read the numbers back from the kernel's table: a restarted process gives every service its old one."""
        for container, key, data in elements:
            if container in {"ports", "ranges"} and data:
                number = number_of(int(data[0], 0))
                proto, port = key[-2], int(key[-1].partition("-")[0])
                self.adopted.setdefault((proto, port), number)
                self.highest = max(self.highest, number)


@dataclass
class L4Section:
    """TCP and UDP services: no listening socket, one batch a change."""

    model: GatewayModel
    table: Table
    reconciler: TableReconciler
    interface: str
    slot: int
    flush: Callable[[Iterable[int]], Awaitable[None]] = conntrack.flush_all  # ends flows by their mark
    numbers: Numbers = field(default_factory=Numbers)
    _opened: bool = False

    async def change(self, services: Iterable[ServiceId]) -> Errors:
        items: dict[int, Elements] = {}
        errors: dict[Key, str] = {}
        for service in services:
            facts = self.model.routes.get(service)
            if facts is None or facts.kind == "http":
                number = self.numbers.by_service.get(service)
                if number is not None:
                    items[number] = frozenset()
                continue
            try:
                items[self.numbers.of(facts)] = gateway_elements(self._l4(facts))
            except ItemRefusedError as error:
                errors[route_key(service)] = str(error)
        if items:
            errors.update(await self._perform(items))
        return errors

    async def whole(self) -> Errors:
        try:
            if not self._opened:
                actual = await self.table.read()
                if actual is not None:
                    self.numbers.adopt((place[0], place[1], data) for place, data in actual.elements.items())
                self._opened = True
            services = [self._l4(facts) for facts in self.model.routes.values() if facts.kind != "http"]
            wanted = GatewayTable(self.interface, self.slot, services={service.number: service for service in services})
            return await self._settle(await self.reconciler.full(gateway_desired(wanted)))
        except TableError as error:
            return {TABLE: str(error)}

    async def _perform(self, items: Mapping[int, Elements]) -> Errors:
        try:
            return await self._settle(await self.reconciler.change(items))
        except TableError as error:
            names = {number: service for service, number in self.numbers.by_service.items()}
            return {route_key(names[number]): str(error) for number in items if number in names}

    async def _settle(self, report: Report) -> Errors:
        await self.flush(report.flush)
        names = {number: service for service, number in self.numbers.by_service.items()}
        refused = {refusal.owner for refusal in report.refused}
        # A number goes with its last element: without it the next try would not know what to remove.
        for number, service in names.items():
            if service not in self.model.routes and number not in refused:
                del self.numbers.by_service[service]
        return {
            (route_key(names[refusal.owner]) if refusal.owner in names else TABLE): refusal.reason
            for refusal in report.refused
        }

    def _l4(self, facts: RouteFacts) -> L4Service:
        proto: Proto = "udp" if facts.kind == "udp" else "tcp"
        target = facts.targets[0] if facts.targets else None
        return L4Service(
            number=self.numbers.of(facts),
            proto=proto,
            ports=Ports.of(facts.first_port, facts.last_port),
            agent_port=target[2] if target else facts.first_port,
            target=target[1] if target else None,
            sources=frozenset(facts.sources) if facts.sources else None,
        )


@dataclass
class HttpSection:
    """HTTP services by host name, in HAProxy's numbered backends."""

    model: GatewayModel
    reconciler: ProxyReconciler

    async def change(self, services: Iterable[ServiceId]) -> Errors:
        errors: dict[Key, str] = {}
        for service in services:
            facts = self.model.routes.get(service)
            try:
                if facts is not None and facts.kind == "http":
                    report = await self.reconciler.put(http_service(facts))
                else:
                    report = await self.reconciler.remove(service)
            except ServiceRefusedError as error:
                errors[route_key(service)] = str(error)
                continue
            if report.errors:
                errors[route_key(service)] = "; ".join(report.errors)
        return errors

    async def cut(self, addresses: Iterable[IPv4Address]) -> tuple[str, ...]:
        """End all connections to these agents, of whatever service; sentences if that was not possible."""
        return (await self.reconciler.cut(addresses)).errors

    async def whole(self) -> Errors:
        services, errors = [], {}
        for facts in self.model.routes.values():
            if facts.kind != "http":
                continue
            try:
                services.append(http_service(facts))
            except ServiceRefusedError as error:
                errors[route_key(facts.service_id)] = str(error)
        report = await self.reconciler.full(services)
        if report.errors:
            errors[TABLE] = "; ".join(report.errors)[:512]
        return errors


def http_service(facts: RouteFacts) -> HttpService:
    servers = tuple(
        Server(id=target_id, address=address, port=port, weight=weight)
        for target_id, address, port, weight in facts.targets
    )
    return HttpService(id=facts.service_id, host=facts.host, servers=servers)
