"""Answers portals that ask what this gateway has counted. Nothing is sent unasked."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog

from kakuremichi.bus.port import Bus, BusError, Message
from kakuremichi.dataplane.haproxy.client import ProxyError
from kakuremichi.dataplane.haproxy.stats import Counters
from kakuremichi.dataplane.nftables.errors import TableError
from kakuremichi.dataplane.nftables.open_flows import open_flows
from kakuremichi.dataplane.nftables.reader import Counters as Flows
from kakuremichi.model.ids import NodeId, PoolName, ServiceId
from kakuremichi.node.renewal import stopped_within
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import WireError, decode, encode
from kakuremichi.wire.counters import MOST_SERVICES, AskCounters, Counted, CountersTold
from kakuremichi_gateway.counting import FRESH_S, FlowCount, FlowReading, HttpCount, HttpReading
from kakuremichi_gateway.publishing import L4Section

log = structlog.get_logger()

AGAIN_S = 60.0

Opened = Callable[[], Awaitable[Mapping[int, int] | None]]


@dataclass
class OpenFlows:
    """The kernel's table of flows, counted at most once a second."""

    count: Opened = open_flows
    _at: float | None = None  # monotonic
    _last: Mapping[int, int] | None = None

    async def read(self) -> Mapping[int, int] | None:
        """By service number; None if there are too many flows to count. Raises TableError."""
        if self._at is None or time.monotonic() - self._at >= FRESH_S:
            self._last, self._at = await self.count(), time.monotonic()
        return self._last


@dataclass
class CounterDesk:
    """`pool` asks, `node` answers. Handlers of one subscription take turns, so a crowd of asks is one after another."""

    bus: Bus
    node: NodeId
    pool: PoolName
    l4: L4Section
    http: HttpCount
    flows: FlowCount
    opened: OpenFlows = field(default_factory=OpenFlows)

    async def run(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.http.begin(stop))
            await self._listen(stop)

    async def _listen(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                subscription = await self.bus.subscribe(subjects.ask_counters(self.pool), self.hear)
            except BusError as error:
                # A server that still has the templates of an earlier release: of no account for anything else.
                log.warning("portals cannot ask for counters", reason=str(error))
                await stopped_within(AGAIN_S, stop)
                continue
            await stop.wait()
            await subscription.unsubscribe()

    async def hear(self, message: Message) -> None:
        try:
            ask = decode(message.data, AskCounters)
        except WireError as error:
            log.info("ask for counters malformed", reason=str(error))
            return
        try:
            await self.bus.publish(subjects.counters(self.node), encode(await self.answer(ask)))
        except BusError as error:
            log.info("counters not sent", reason=str(error))

    async def answer(self, ask: AskCounters) -> CountersTold:
        """What is known of the services that are asked for and served here."""
        routes = self.l4.model.routes
        asked = [service for service in dict.fromkeys(ask.services) if service in routes][:MOST_SERVICES]
        http = [service for service in asked if routes[service].kind == "http"]
        flows = [service for service in asked if routes[service].kind != "http"]
        errors: list[str] = []
        found = [*await self._of_haproxy(http, errors), *await self._of_nftables(flows, errors)]
        since = self.http.since
        return CountersTold(
            ask_id=ask.ask_id,
            counting_s=0.0 if since is None else max(0.0, time.monotonic() - since),
            services=tuple(found),
            errors=tuple(sentence[:512] for sentence in errors),
        )

    async def _of_haproxy(self, services: list[ServiceId], errors: list[str]) -> list[Counted]:
        if not services:
            return []
        try:
            reading = await self.http.read(fresh_s=FRESH_S)
        except ProxyError as error:
            errors.append(f"haproxy: {error}")
            return []
        return [of_http(service, reading) for service in services if service in reading.totals]

    async def _of_nftables(self, services: list[ServiceId], errors: list[str]) -> list[Counted]:
        if not services:
            return []
        try:
            reading = await self.flows.read(fresh_s=FRESH_S, rates=True)
        except TableError as error:
            errors.append(str(error))
            return []
        try:
            opened = await self.opened.read()
        except TableError as error:
            errors.append(str(error))
            opened = None
        numbers = self.l4.numbers.by_service
        return [
            of_flows(service, reading, None if opened is None else opened.get(numbers.get(service, 0), 0))
            for service in services
            if service in reading.totals
        ]


def of_http(service: ServiceId, reading: HttpReading) -> Counted:
    """As HAProxy counts it. Its sessions of a service are requests, and each ends with a class of status or none."""
    total: Counters = reading.totals[service]
    sessions, rate = reading.activity.get(service, (0, 0))
    return Counted(
        service_id=service,
        open=sessions,
        requests=total.requests,
        statuses=total.statuses,
        bytes_in=total.bytes_in,
        bytes_out=total.bytes_out,
        denied=total.denied,
        connect_errors=total.connect_errors,
        response_errors=total.response_errors,
        rate=float(rate),
    )


def of_flows(service: ServiceId, reading: FlowReading, opened: int | None) -> Counted:
    """As nftables counts it, HAProxy's part of the service included: packets with their headers."""
    total: Flows = reading.totals[service]
    return Counted(
        service_id=service,
        connections=total.connections,
        open=opened,
        bytes_in=total.bytes - total.bytes_out,
        bytes_out=total.bytes_out,
        packets_in=total.packets - total.packets_out,
        packets_out=total.packets_out,
        limited=total.refused,
        rate=None if reading.rates is None else reading.rates.get(service, 0.0),
    )
