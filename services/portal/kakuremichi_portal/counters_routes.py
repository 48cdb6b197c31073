"""/api/v1/services/{name}/counters and /api/v1/counters: what passed through services, asked of their gateways."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from aiohttp import web

from kakuremichi.model.ids import NodeId, PoolName, ServiceId
from kakuremichi.wire import commands
from kakuremichi_portal.counters import WITHIN_S, Counters
from kakuremichi_portal.counters_view import (
    Answers,
    CountersList,
    ServiceCounters,
    by_service,
    errors_of,
    one_service,
    service_total,
)
from kakuremichi_portal.decoding import query_seconds
from kakuremichi_portal.listing import PAGE_QUERY, filters_of, page_of
from kakuremichi_portal.names import existing_name, missing
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import API, Access, Call, Query, Route, json_response
from kakuremichi_portal.service_routes import FILTERS, ONE

MOST_S = 10.0
WITHIN = Query(
    "timeout", "Longest wait for the gateways' answers, in seconds.",
    {"type": "number", "exclusiveMinimum": 0, "maximum": MOST_S, "default": WITHIN_S},
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Asked:
    """Of one pool: its gateways, and their answers, a mapping for each part of the services."""

    gateways: tuple[NodeId, ...]
    parts: list[Answers]

    @property
    def silent(self) -> set[NodeId]:
        return {node for node in self.gateways for answers in self.parts if node not in answers}


class CountersRoutes:
    def __init__(self, registry: Registry, counters: Counters) -> None:
        self._registry, self._counters = registry, counters

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", f"{ONE}/counters", "getServiceCounters",
                  "What passed through a service, in all and at each gateway.", Access.READ,
                  self.get, {200: ServiceCounters}, query=(WITHIN,), refusals=(404,)),
            Route("GET", f"{API}/counters", "listCounters",
                  "What passed through all services, or those that the filters name.", Access.READ,
                  self.list, {200: CountersList}, query=(*FILTERS, *PAGE_QUERY, WITHIN)),
        )  # fmt: skip

    async def get(self, call: Call) -> web.Response:
        name = ServiceId(existing_name("service", call.name))
        within_s = query_seconds(call.request, "timeout", WITHIN_S, most=MOST_S)
        view = await self._registry.service(call.actor, name)
        if view is None:
            raise missing("service", name)
        asked = (await self._ask(call.actor, (view,), within_s))[view.pool]
        return json_response(one_service(view, asked.parts[0], asked.gateways))

    async def list(self, call: Call) -> web.Response:
        limit, after = page_of(call)
        within_s = query_seconds(call.request, "timeout", WITHIN_S, most=MOST_S)
        command = commands.ListServices(actor=call.actor, after=after, **filters_of(call, FILTERS))
        page = await self._registry.listed(command, commands.Services, limit)
        asked = await self._ask(call.actor, page.items, within_s)
        parts = [part for of_pool in asked.values() for part in of_pool.parts]
        found = by_service(parts)
        return json_response(
            CountersList(
                items=tuple(service_total(view, found.get(view.service_id, ())) for view in page.items),
                silent=tuple(sorted({node for of_pool in asked.values() for node in of_pool.silent})),
                errors=errors_of(parts),
                next_after=page.next_after,
            )
        )

    async def _ask(self, actor: str, views: Iterable[commands.ServiceView], within_s: float) -> dict[str, _Asked]:
        """By pool. Only gateways that report are waited for: of the others it is known that they are silent."""
        services: dict[str, list[ServiceId]] = {}
        for view in views:
            services.setdefault(view.pool, []).append(ServiceId(view.service_id))
        nodes = await self._registry.nodes(actor, "gateway") if services else ()
        gateways = {
            pool: [node for node in nodes if node.pool == pool and node.state not in ("pending", "revoked")]
            for pool in services
        }
        answers = await asyncio.gather(*(
            self._counters.ask(
                PoolName(pool),
                services[pool],
                known=[NodeId(node.node_id) for node in gateways[pool]],
                awaited=[NodeId(node.node_id) for node in gateways[pool] if node.state == "live"],
                within_s=within_s,
            )
            for pool in services
        ))  # fmt: skip
        return {
            pool: _Asked(tuple(NodeId(node.node_id) for node in gateways[pool]), parts)
            for pool, parts in zip(services, answers, strict=True)
        }
