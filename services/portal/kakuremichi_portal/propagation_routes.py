"""/api/v1/events/{seq}/propagation and /api/v1/propagation: did it arrive everywhere, how fast, and if not, why."""

import asyncio

from aiohttp import web

from kakuremichi.wire import commands
from kakuremichi_portal.decoding import query_int
from kakuremichi_portal.event_routes import ONE, event_seq
from kakuremichi_portal.names import missing
from kakuremichi_portal.propagation_shapes import EventPropagation, FleetPropagation
from kakuremichi_portal.propagation_view import event_propagation, fleet_propagation
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.reports import Reports
from kakuremichi_portal.route import API, Access, Call, Query, Route, json_response

LIMIT = Query("limit", "Of how many of the newest events.",
              {"type": "integer", "minimum": 1, "maximum": 200, "default": 50})  # fmt: skip


class PropagationRoutes:
    def __init__(self, registry: Registry, reports: Reports) -> None:
        self._registry, self._reports = registry, reports

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", f"{ONE}/propagation", "getPropagation", "How a change came to each node, stage by stage.",
                  Access.READ, self.of_event, {200: EventPropagation}, refusals=(404,)),
            Route("GET", f"{API}/propagation", "getFleetPropagation",
                  "How long changes take to be applied, and which nodes are behind and why.",
                  Access.READ, self.of_fleet, {200: FleetPropagation}, query=(LIMIT,), refusals=(400,)),
        )  # fmt: skip

    async def of_event(self, call: Call) -> web.Response:
        seq = event_seq(call.name)
        found = await self._registry.ask(commands.ListPositions(actor=call.actor, seq=seq), commands.Positions)
        if not found.items:
            raise missing("event", str(seq))
        event = found.items[0]
        nodes = await self._readers(call.actor, event)
        cursors = self._reports.progress.cursors(found.log_id)
        return json_response(event_propagation(event, found.log_id, nodes, self._reports.arrivals, cursors))

    async def of_fleet(self, call: Call) -> web.Response:
        limit = query_int(call.request, "limit", 50, least=1, most=200)
        found, gateways, agents = await asyncio.gather(
            self._registry.ask(commands.ListPositions(actor=call.actor, limit=limit), commands.Positions),
            self._registry.nodes(call.actor, "gateway"),
            self._registry.nodes(call.actor, "agent"),
        )
        nodes = (*gateways, *agents)
        only = {node.node_id for node in nodes} if call.caller.scope.limited else None
        arrivals = self._reports.arrivals
        return json_response(fleet_propagation(found.items, found.log_id, nodes, arrivals, only=only))

    async def _readers(self, actor: str, event: commands.EventPositions) -> list[commands.NodeView]:
        """Of the nodes only those that may read one of the event's feeds: a fleet is long to list."""
        feeds = [feed for feed, _ in event.positions]
        nodes: list[commands.NodeView] = []
        if any(feed.startswith("feed.pool.") for feed in feeds):
            nodes += await self._registry.nodes(actor, "gateway")
        if any(feed.startswith("feed.fleet.") for feed in feeds):
            return nodes + list(await self._registry.nodes(actor, "agent"))
        for feed in feeds:
            if feed.startswith("feed.agent."):
                name = commands.ListNodes(actor=actor, role="agent", node_id=feed.rpartition(".")[2])
                nodes += (await self._registry.ask(name, commands.Nodes)).items
        return nodes
