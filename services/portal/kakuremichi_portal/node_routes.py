"""/api/v1/gateways and /api/v1/agents: the same resource in two roles."""

from collections.abc import Callable
from functools import partial

from aiohttp import web

from kakuremichi.model.ids import NodeId
from kakuremichi.wire import commands
from kakuremichi.wire.identity import Role
from kakuremichi_portal import views, writing
from kakuremichi_portal.conditions import IF_MATCH, IF_NONE_MATCH, tagged
from kakuremichi_portal.decoding import query_flag
from kakuremichi_portal.listing import PAGE_QUERY, filters_of, of_name, one_of, page_of
from kakuremichi_portal.names import existing_name, missing
from kakuremichi_portal.registry import Registry, seqs_of
from kakuremichi_portal.reports import Reports
from kakuremichi_portal.route import API, IDEMPOTENCY_HEADER, Access, Call, Query, Route, json_response
from kakuremichi_portal.shapes import Node, Nodes

CASCADE = Query(
    "cascade",
    "`true`: also when services have their last target there; they stay, without a target.",
    {"type": "boolean", "default": False},
)


FILTERS = (
    of_name("pool", "Of this pool."),
    one_of("state", "In this state.", "pending", "enrolled", "live", "offline", "quarantined", "revoked"),
)


class NodeRoutes:
    def __init__(self, role: Role, registry: Registry, reports: Reports) -> None:
        self._role, self._registry, self._reports = role, registry, reports

    def routes(self) -> tuple[Route, ...]:
        role, title = self._role, self._role.capitalize()
        path = f"{API}/{role}s"
        one = f"{path}/{{name}}"
        done, query, refusals = writing.DONE, writing.QUERY, (404, 409, 412)
        headers = {**IDEMPOTENCY_HEADER, **IF_MATCH}
        return (
            Route("GET", path, f"list{title}s", f"All {role}s, or those that the filters name.", Access.READ,
                  self.list, {200: Nodes}, query=(*FILTERS, *PAGE_QUERY)),
            Route("GET", one, f"get{title}", f"One {role}.", Access.READ,
                  self.get, {200: Node, 304: ""}, refusals=(404,), headers=IF_NONE_MATCH),
            Route("DELETE", one, f"remove{title}", f"Remove a {role} and revoke its key.", Access.ADMIN,
                  self.remove, done, None, (CASCADE, *query), refusals, headers),
            Route("POST", f"{one}/revoke", f"revoke{title}", f"Cut a {role} off everywhere, for ever.", Access.ADMIN,
                  self.revoke, done, None, query, refusals, headers),
            Route("POST", f"{one}/rotate", f"rotate{title}", f"Ask a {role} for a new WireGuard key.", Access.ADMIN,
                  self.rotate, done, None, query, refusals, headers),
            Route("POST", f"{one}/release", f"release{title}",
                  f"End the quarantine of a {role}: one holder of its identity is left.", Access.ADMIN,
                  self.release, done, None, query, refusals, headers),
        )  # fmt: skip

    async def list(self, call: Call) -> web.Response:
        limit, after = page_of(call)
        command = commands.ListNodes(actor=call.actor, role=self._role, after=after, **filters_of(call, FILTERS))
        page = await self._registry.listed(command, commands.Nodes, limit)
        return json_response(Nodes(items=tuple(map(views.node, page.items, seqs_of(page))), next_after=page.next_after))

    async def get(self, call: Call) -> web.Response:
        name = NodeId(existing_name(self._role, call.name))
        command = commands.ListNodes(actor=call.actor, role=self._role, node_id=name)
        page = await self._registry.ask(command, commands.Nodes)
        for view, seq in zip(page.items, seqs_of(page), strict=True):
            return tagged(call, views.node(view, seq), seq)
        raise missing(self._role, name)

    async def remove(self, call: Call) -> web.Response:
        cascade = query_flag(call.request, "cascade")
        return await self._act(call, partial(commands.RemoveNode, cascade=cascade))

    async def revoke(self, call: Call) -> web.Response:
        return await self._act(call, commands.RevokeNode)

    async def rotate(self, call: Call) -> web.Response:
        return await self._act(call, commands.RotateNode)

    async def release(self, call: Call) -> web.Response:
        return await self._act(call, commands.ReleaseNode)

    async def _act(self, call: Call, make: Callable[..., commands.AnyCommand]) -> web.Response:
        name, wait_s = existing_name(self._role, call.name), writing.wait_of(call)
        command = make(
            actor=call.actor, idempotency_key=call.idempotency_key, node_id=NodeId(name), role=self._role,
            terms=writing.terms_of(call),
        )  # fmt: skip
        written = await writing.told(self._registry, command, name)
        if isinstance(written, web.Response):
            return written
        return await writing.answer(call, written, self._reports, name=name, wait_s=wait_s)
