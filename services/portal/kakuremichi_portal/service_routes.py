"""/api/v1/services"""

from aiohttp import web

from kakuremichi.model.ids import ServiceId
from kakuremichi.wire import commands
from kakuremichi_portal import views, writing
from kakuremichi_portal.decoding import read_body
from kakuremichi_portal.names import existing_name, missing, new_name
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.reports import Reports
from kakuremichi_portal.route import API, IDEMPOTENCY_HEADER, WAIT_QUERY, Access, Call, Route, json_response
from kakuremichi_portal.shapes import AppliedAnswer, Service, ServiceIn, Services, WriteAnswer

PATH = f"{API}/services"
ONE = f"{PATH}/{{name}}"
REFUSALS = (400, 409, 413, 415, 422)


class ServiceRoutes:
    def __init__(self, registry: Registry, reports: Reports) -> None:
        self._registry, self._reports = registry, reports

    def routes(self) -> tuple[Route, ...]:
        write = Access.WRITE
        done = {200: AppliedAnswer, 202: AppliedAnswer}
        return (
            Route("GET", PATH, "listServices", "All services.", Access.READ, self.list, {200: Services}),
            Route("GET", ONE, "getService", "One service.", Access.READ, self.get, {200: Service}, refusals=(404,)),
            Route("POST", PATH, "createService", "Publish a new service; 409 if its name is taken.", write,
                  self.create, {201: WriteAnswer, **done}, ServiceIn, WAIT_QUERY, REFUSALS, IDEMPOTENCY_HEADER),
            Route("PUT", ONE, "replaceService", "Publish a service, or replace it whole.", write,
                  self.replace, done, ServiceIn, WAIT_QUERY, REFUSALS, IDEMPOTENCY_HEADER),
            Route("DELETE", ONE, "deleteService", "Unpublish a service.", write,
                  self.delete, done, None, WAIT_QUERY, (404,), IDEMPOTENCY_HEADER),
        )  # fmt: skip

    async def list(self, call: Call) -> web.Response:
        services = await self._registry.services(call.actor)
        return json_response(Services(items=tuple(views.service(view) for view in services)))

    async def get(self, call: Call) -> web.Response:
        name = ServiceId(existing_name("service", call.name))
        view = await self._registry.service(call.actor, name)
        if view is None:
            raise missing("service", name)
        return json_response(views.service(view))

    async def create(self, call: Call) -> web.Response:
        given = await read_body(call.request, ServiceIn)
        return await self._publish(call, new_name(given.name), given, create_only=True)

    async def replace(self, call: Call) -> web.Response:
        name = new_name(call.name)
        given = await read_body(call.request, ServiceIn)
        if given.name not in (None, name):
            raise ProblemError(422, "invalid", "name: differs from the name in the path", field="name")
        return await self._publish(call, name, given, create_only=False)

    async def _publish(self, call: Call, name: str, given: ServiceIn, *, create_only: bool) -> web.Response:
        wait_s = writing.wait_of(call)
        command = views.publish(
            name, given, actor=call.actor, idempotency_key=call.idempotency_key, create_only=create_only
        )
        written = await self._registry.ask(command, commands.Written)
        return await writing.answer(
            call, written, self._reports, name=name, wait_s=wait_s, touched=frozenset({name}), created=create_only
        )

    async def delete(self, call: Call) -> web.Response:
        name, wait_s = existing_name("service", call.name), writing.wait_of(call)
        command = commands.UnpublishService(
            actor=call.actor, idempotency_key=call.idempotency_key, service_id=ServiceId(name)
        )
        written = await self._registry.ask(command, commands.Written)
        return await writing.answer(call, written, self._reports, name=name, wait_s=wait_s, touched=frozenset({name}))
