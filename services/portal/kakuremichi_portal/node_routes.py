"""/api/v1/gateways and /api/v1/agents: the same resource in two roles."""

from collections.abc import Callable
from functools import partial

from aiohttp import web

from kakuremichi.model.ids import NodeId
from kakuremichi.wire import commands
from kakuremichi.wire.identity import Role
from kakuremichi_portal import views, writing
from kakuremichi_portal.decoding import query_flag
from kakuremichi_portal.names import existing_name, missing
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.reports import Reports
from kakuremichi_portal.route import API, IDEMPOTENCY_HEADER, WAIT_QUERY, Access, Call, Query, Route, json_response
from kakuremichi_portal.shapes import AppliedAnswer, Node, Nodes

CASCADE = Query(
    "cascade",
    "`true`: also when services have their last target there; they stay, without a target.",
    {"type": "boolean", "default": False},
)


class NodeRoutes:
    def __init__(self, role: Role, registry: Registry, reports: Reports) -> None:
        self._role, self._registry, self._reports = role, registry, reports

    def routes(self) -> tuple[Route, ...]:
        role, title = self._role, self._role.capitalize()
        path = f"{API}/{role}s"
        one = f"{path}/{{name}}"
        done = {200: AppliedAnswer, 202: AppliedAnswer}
        return (
            Route("GET", path, f"list{title}s", f"All {role}s.", Access.READ, self.list, {200: Nodes}),
            Route("GET", one, f"get{title}", f"One {role}.", Access.READ, self.get, {200: Node}, refusals=(404,)),
            Route("DELETE", one, f"remove{title}", f"Remove a {role} and revoke its key.", Access.ADMIN,
                  self.remove, done, None, (CASCADE, *WAIT_QUERY), (404, 409), IDEMPOTENCY_HEADER),
            Route("POST", f"{one}/revoke", f"revoke{title}", f"Cut a {role} off everywhere, for ever.", Access.ADMIN,
                  self.revoke, done, None, WAIT_QUERY, (404, 409), IDEMPOTENCY_HEADER),
            Route("POST", f"{one}/rotate", f"rotate{title}", f"Ask a {role} for a new WireGuard key.", Access.ADMIN,
                  self.rotate, done, None, WAIT_QUERY, (404, 409), IDEMPOTENCY_HEADER),
            Route("POST", f"{one}/release", f"release{title}",
                  f"End the quarantine of a {role}: one holder of its identity is left.", Access.ADMIN,
                  self.release, done, None, WAIT_QUERY, (404, 409), IDEMPOTENCY_HEADER),
        )  # fmt: skip

    async def list(self, call: Call) -> web.Response:
        nodes = await self._registry.nodes(call.actor, self._role)
        return json_response(Nodes(items=tuple(views.node(view) for view in nodes)))

    async def get(self, call: Call) -> web.Response:
        name = NodeId(existing_name(self._role, call.name))
        view = await self._registry.node(call.actor, self._role, name)
        if view is None:
            raise missing(self._role, name)
        return json_response(views.node(view))

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
        command = make(actor=call.actor, idempotency_key=call.idempotency_key, node_id=NodeId(name), role=self._role)
        written = await self._registry.ask(command, commands.Written)
        return await writing.answer(call, written, self._reports, name=name, wait_s=wait_s)
