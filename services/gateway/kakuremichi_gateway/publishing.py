"""The services of a gateway in nftables and HAProxy."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from msgspec import structs

from kakuremichi.dataplane.haproxy.capabilities import OLDEST, Capabilities
from kakuremichi.dataplane.haproxy.desired import HttpService, Server, Service, ServiceRefusedError, TcpService
from kakuremichi.dataplane.haproxy.reconcile import Reconciler as ProxyReconciler
from kakuremichi.dataplane.nftables import conntrack
from kakuremichi.dataplane.nftables.device import Table
from kakuremichi.dataplane.nftables.elements import TABLE_WIDE, Elements, ItemRefusedError, Ports
from kakuremichi.dataplane.nftables.errors import TableError
from kakuremichi.dataplane.nftables.gateway import (
    GatewayTable,
    L4Service,
    check_bandwidth,
    gateway_desired,
    gateway_elements,
    gateway_wide_elements,
)
from kakuremichi.dataplane.nftables.guards import GUARDS, Guards
from kakuremichi.dataplane.nftables.marks import Proto, number_of
from kakuremichi.dataplane.nftables.reader import Counters
from kakuremichi.dataplane.nftables.reconcile import Reconciler as TableReconciler
from kakuremichi.dataplane.nftables.reconcile import Report
from kakuremichi.model.addresses import IPAddress
from kakuremichi.model.ids import ServiceId
from kakuremichi.model.options import Limits
from kakuremichi.reconcile.holding import Key
from kakuremichi_gateway.model import GatewayModel, RouteFacts

Errors = Mapping[Key, str]
Shaped = Mapping[tuple[IPAddress, int], int]  # (agent's address, agent port) → bytes a second
TABLE: Key = ("route", "*")  # what concerns all services
NAMES_KEPT = 1000


def route_key(service: ServiceId) -> Key:
    return ("route", str(service))


@dataclass
class Numbers:
    """Service numbers: local to this gateway, kept while the service lives, so that its flows keep their mark."""

    by_service: dict[ServiceId, int] = field(default_factory=dict)
    adopted: dict[tuple[str, int], int] = field(default_factory=dict)  # (proto, first port) → number in the kernel
    highest: int = 0
    _names: dict[int, ServiceId] = field(default_factory=dict)
    _gone: deque[int] = field(default_factory=deque)

    def of(self, facts: RouteFacts) -> int:
        number = self.by_service.get(facts.service_id)
        if number is None:
            number = self.adopted.pop((facts.kind, facts.first_port), 0)
            if not number:
                self.highest += 1
                number = self.highest
            self.by_service[facts.service_id] = number
            self._names[number] = facts.service_id
        return number

    def forget(self, service: ServiceId) -> None:
        """The service is gone. What the kernel still says of its last flows can be named for a while."""
        self._gone.append(self.by_service.pop(service))
        if len(self._gone) > NAMES_KEPT:
            del self._names[self._gone.popleft()]

    def name(self, number: int) -> str:
        """The service's id; "" if this gateway knows none of this number."""
        return self._names.get(number, "")

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
    listeners: frozenset[tuple[Proto, int]] = frozenset()  # public ports of HAProxy
    guarded: frozenset[tuple[Proto, int]] = frozenset()  # its ports that only a redirect of ours may reach
    guards: Guards = GUARDS
    shapes_http: bool = True  # HAProxy cannot limit bytes itself
    _opened: bool = False
    _shaped: dict[ServiceId, Shaped] = field(default_factory=dict)

    async def change(self, services: Iterable[ServiceId]) -> Errors:
        items: dict[int, Elements] = {}
        errors: dict[Key, str] = {}
        shaped_before = dict(self._shaped)
        for service in services:
            facts = self.model.routes.get(service)
            self._shape(service, facts, errors)
            if facts is None or facts.kind == "http":
                number = self.numbers.by_service.get(service)
                if number is not None:
                    items[number] = frozenset()
                continue
            try:
                items[self.numbers.of(facts)] = gateway_elements(self._l4(facts))
            except ItemRefusedError as error:
                errors[route_key(service)] = str(error)
        if self._shaped != shaped_before:
            items[TABLE_WIDE] = gateway_wide_elements(self._table_of(()))
        if items:
            errors.update(await self._perform(items))
        return errors

    async def counts(self) -> Mapping[ServiceId, Counters]:
        """Per service of tcp and udp, since its elements came into the kernel's table. Two sets are listed."""
        counted = await self.table.counters()
        return {name: counted[number] for name, number in self.numbers.by_service.items() if number in counted}

    async def whole(self) -> Errors:
        try:
            if not self._opened:
                actual = await self.table.read()
                if actual is not None:
                    self.numbers.adopt((place[0], place[1], data) for place, data in actual.elements.items())
                self._opened = True
            errors: dict[Key, str] = {}
            self._shaped.clear()
            for facts in self.model.routes.values():
                self._shape(facts.service_id, facts, errors)
            wanted = self._table_of(self._l4(facts) for facts in self.model.routes.values() if facts.kind != "http")
            report = await self.reconciler.full(gateway_desired(wanted))
            return errors | dict(await self._settle(report, tuple(self.numbers.by_service.values())))
        except TableError as error:
            return {TABLE: str(error)}

    def _table_of(self, services: Iterable[L4Service]) -> GatewayTable:
        return GatewayTable(
            self.interface,
            self.slot,
            guarded=self.guarded,
            services={service.number: service for service in services},
            listeners=self.listeners,
            shaped={place: limit for each in self._shaped.values() for place, limit in each.items()},
            guards=self.guards,
        )

    def _shape(self, service: ServiceId, facts: RouteFacts | None, errors: dict[Key, str]) -> None:
        """Note what HAProxy may fetch for this service, if that is limited; each of several targets may reach it."""
        shaped = self.shapes_http and facts is not None and facts.kind == "http"
        limit = facts.options.limits.bandwidth if facts is not None and shaped else 0
        self._shaped.pop(service, None)
        if facts is None or not limit:
            return
        try:
            check_bandwidth(f"service {service}", limit)
        except ItemRefusedError as error:
            errors[route_key(service)] = str(error)
        else:
            self._shaped[service] = {(address, port): limit for _, address, port, _ in facts.targets}

    async def _perform(self, items: Mapping[int, Elements]) -> Errors:
        try:
            return await self._settle(await self.reconciler.change(items), items)
        except TableError as error:
            return {self._key_of(number): str(error) for number in items}

    async def _settle(self, report: Report, numbers: Iterable[int]) -> Errors:
        """`numbers` are those that the pass was about."""
        await self.flush(report.flush)
        refused = {refusal.owner for refusal in report.refused}
        # A number goes with its last element: without it the next try would not know what to remove.
        for number in numbers:
            service = ServiceId(self.numbers.name(number))
            held = self.numbers.by_service.get(service) == number
            if held and service not in self.model.routes and number not in refused:
                self.numbers.forget(service)
        return {self._key_of(refusal.owner): refusal.reason for refusal in report.refused}

    def _key_of(self, number: int) -> Key:
        name = self.numbers.name(number)
        return route_key(ServiceId(name)) if name else TABLE

    def _l4(self, facts: RouteFacts) -> L4Service:
        proto: Proto = "udp" if facts.kind == "udp" else "tcp"
        target = facts.targets[0] if facts.targets else None
        return L4Service(
            number=self.numbers.of(facts),
            proto=proto,
            ports=Ports.of(facts.first_port, facts.last_port),
            agent_port=target[2] if target else facts.first_port,
            target=target[1] if target and isinstance(target[1], IPv4Address) else None,
            target6=target[1] if target and isinstance(target[1], IPv6Address) else None,
            sources=frozenset(facts.sources) if facts.sources else None,
            limits=facts.options.limits,
            carried=carried_families(facts),
        )


@dataclass
class HttpSection:
    """What HAProxy carries, in its numbered backends: HTTP by host name and path, and TCP where nft cannot."""

    model: GatewayModel
    reconciler: ProxyReconciler
    capabilities: Capabilities = OLDEST
    keeps_access_log: bool = False

    async def change(self, services: Iterable[ServiceId]) -> Errors:
        # At once, as those that need a reload share it.
        found = await asyncio.gather(*(self._change_one(service) for service in services))
        return {key: sentence for errors in found for key, sentence in errors.items()}

    async def _change_one(self, service: ServiceId) -> Errors:
        facts = self.model.routes.get(service)
        try:
            proxied = proxied_service(facts, self.capabilities) if facts is not None else None
        except ServiceRefusedError as error:
            # Not served at all: the old servers are not those that the owner means.
            await self.reconciler.remove(service)
            return {route_key(service): str(error)}
        report = await (self.reconciler.remove(service) if proxied is None else self.reconciler.put(proxied))
        errors = list(report.errors)
        if proxied is not None and proxied.log_one_in and not self.keeps_access_log:
            errors.append(f"service {service}: access_log is asked for, this gateway was started without --access-log")
        return {route_key(service): "; ".join(errors)} if errors else {}

    async def cut(self, addresses: Iterable[IPAddress]) -> tuple[str, ...]:
        """End all connections to these agents, of whatever service; sentences if that was not possible."""
        return (await self.reconciler.cut(addresses)).errors

    async def whole(self) -> Errors:
        services, errors = [], {}
        for facts in self.model.routes.values():
            try:
                proxied = proxied_service(facts, self.capabilities)
            except ServiceRefusedError as error:
                errors[route_key(facts.service_id)] = str(error)
                continue
            if proxied is not None:
                services.append(proxied)
        report = await self.reconciler.full(services)
        if report.errors:
            errors[TABLE] = "; ".join(report.errors)[:512]
        return errors


def carried_families(facts: RouteFacts) -> frozenset[int]:
    """Whose visitors of a tcp or udp service HAProxy carries.

    nft translates no families, so HAProxy takes in who comes by the one that the target has not. A range keeps its
    numbers on every leg, which HAProxy's servers cannot: it has visitors of the target's own family only.
    """
    if facts.kind != "tcp" or not facts.targets or facts.first_port != facts.last_port:
        return frozenset()
    if facts.options.upstream.proxy_protocol:
        return frozenset((4, 6))
    return frozenset((4, 6)) - {address.version for _, address, _, _ in facts.targets}


def proxied_service(facts: RouteFacts, capabilities: Capabilities = OLDEST) -> Service | None:
    """What HAProxy has to do with it; None if nothing. :class:`ServiceRefusedError` if it cannot be done."""
    if facts.options.limits.bandwidth_per_client and not capabilities.bandwidth:
        version = ".".join(map(str, capabilities.version))
        raise ServiceRefusedError(
            f"service {facts.service_id}: limits.bandwidth_per_client needs HAProxy 2.7, this gateway has {version}"
        )
    servers = tuple(
        Server(id=target_id, address=address, port=port, weight=weight)
        for target_id, address, port, weight in facts.targets
    )
    if facts.kind == "http":
        return HttpService(
            id=facts.service_id,
            host=facts.host,
            servers=servers,
            path=facts.path,
            options=facts.options,
            sources=tuple(map(str, facts.sources)),
            log_one_in=facts.options.access_log,
        )
    if not carried_families(facts):
        return None
    # Its allow-list and limits are nft's, before HAProxy hears of a visitor.
    options = structs.replace(facts.options, limits=Limits())
    return TcpService(
        id=facts.service_id,
        port=facts.first_port,
        servers=servers,
        options=options,
        log_one_in=facts.options.access_log if facts.options.upstream.proxy_protocol else 0,
    )
