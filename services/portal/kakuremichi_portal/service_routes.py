"""/api/v1/services"""

from typing import get_args

from aiohttp import web
from msgspec import UNSET, UnsetType

from kakuremichi.declarative.spec import BY_HAND
from kakuremichi.model.ids import ServiceId
from kakuremichi.wire import commands
from kakuremichi.wire.records import Kind
from kakuremichi_portal import views, writing
from kakuremichi_portal.conditions import CREATE_ONLY, IF_MATCH, IF_NONE_MATCH, create_only, tagged
from kakuremichi_portal.decoding import read_body
from kakuremichi_portal.listing import NAME_PATTERN, PAGE_QUERY, filters_of, of_name, one_of, page_of
from kakuremichi_portal.names import existing_name, missing, new_name
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.reports import Reports
from kakuremichi_portal.route import API, IDEMPOTENCY_HEADER, Access, Call, Query, Route, json_response
from kakuremichi_portal.shapes import Service, ServiceIn, Services, WriteAnswer

PATH = f"{API}/services"
ONE = f"{PATH}/{{name}}"
EXISTS = "exists"
REFUSALS = (400, 404, 408, 409, 413, 415, 422, 507)
FILTERS = (
    of_name("pool", "Of this pool."),
    one_of("kind", "Of this kind.", *get_args(Kind)),
    of_name("agent", "With a target at this agent."),
    one_of("state", "In this state.", "active", "no-target"),
    Query("host", "Of exactly this host name.", {"type": "string", "maxLength": 253}),
    of_name("source", "Of this declarative file."),
)
ADOPT = Query(
    "adopt",
    "Take the service over from this source, `by-hand` being nobody's; without `source` in the body for nobody.",
    {"type": "string", "pattern": NAME_PATTERN},
)  # fmt: skip
OF_SOURCE = of_name("source", "Only if it comes from this declarative file, else 409.")


class ServiceRoutes:
    def __init__(self, registry: Registry, reports: Reports) -> None:
        self._registry, self._reports = registry, reports

    def routes(self) -> tuple[Route, ...]:
        read, write, once = Access.READ, Access.WRITE, IDEMPOTENCY_HEADER
        return (
            Route("GET", PATH, "listServices", "All services, or those that the filters name.", read,
                  self.list, {200: Services}, query=(*FILTERS, *PAGE_QUERY)),
            Route("GET", ONE, "getService", "One service.", read,
                  self.get, {200: Service, 304: ""}, refusals=(404,), headers=IF_NONE_MATCH),
            Route("POST", PATH, "createService", "Publish a new service; 409 if its name is taken.", write,
                  self.create, {201: WriteAnswer, **writing.DONE}, ServiceIn, writing.QUERY, REFUSALS, once),
            Route("PUT", ONE, "replaceService", "Publish a service, or replace it whole.", write,
                  self.replace, writing.DONE, ServiceIn, (ADOPT, *writing.QUERY), (*REFUSALS, 412),
                  {**once, **IF_MATCH, **CREATE_ONLY}),
            Route("DELETE", ONE, "deleteService", "Unpublish a service.", write,
                  self.delete, writing.DONE, None, (OF_SOURCE, *writing.QUERY), (404, 409, 412), {**once, **IF_MATCH}),
        )  # fmt: skip

    async def list(self, call: Call) -> web.Response:
        limit, after = page_of(call)
        command = commands.ListServices(actor=call.actor, after=after, **filters_of(call, FILTERS))
        page = await self._registry.listed(command, commands.Services, limit)
        return json_response(Services(items=tuple(map(views.service, page.items)), next_after=page.next_after))

    async def get(self, call: Call) -> web.Response:
        name = ServiceId(existing_name("service", call.name))
        view = await self._registry.service(call.actor, name)
        if view is None:
            raise missing("service", name)
        return tagged(call, views.service(view), view.updated_seq)

    async def create(self, call: Call) -> web.Response:
        given = await read_body(call.request, ServiceIn)
        return await self._publish(call, new_name(given.name), given, create_only=True)

    async def replace(self, call: Call) -> web.Response:
        name = new_name(call.name)
        given = await read_body(call.request, ServiceIn)
        if given.name not in (None, name):
            raise ProblemError(422, "invalid", "name: differs from the name in the path", field="name")
        if not create_only(call):
            return await self._publish(call, name, given, create_only=False)
        try:
            return await self._publish(call, name, given, create_only=True)
        except ProblemError as error:
            if error.code != EXISTS:
                raise
            raise ProblemError(412, EXISTS, error.detail, field="If-None-Match", holders=error.holders) from error

    async def _publish(self, call: Call, name: str, given: ServiceIn, *, create_only: bool) -> web.Response:
        wait_s = writing.wait_of(call)
        if given.source == BY_HAND:
            detail = f"source: {BY_HAND} stands for services that come from no file; call the file otherwise"
            raise ProblemError(422, "invalid", detail, field="source")
        command = views.publish(
            name, given, actor=call.actor, idempotency_key=call.idempotency_key, create_only=create_only,
            terms=writing.terms_of(call, source=given.source or UNSET, adopt=_adopted(call)),
        )  # fmt: skip
        written = await writing.told(self._registry, command, name)
        if isinstance(written, web.Response):
            return written
        created = call.request.method == "POST"
        return await writing.answer(
            call, written, self._reports, name=name, wait_s=wait_s, touched=frozenset({name}), created=created
        )

    async def delete(self, call: Call) -> web.Response:
        name, wait_s = existing_name("service", call.name), writing.wait_of(call)
        source = filters_of(call, (OF_SOURCE,)).get("source", UNSET)
        command = commands.UnpublishService(
            actor=call.actor, idempotency_key=call.idempotency_key, service_id=ServiceId(name),
            terms=writing.terms_of(call, source=source),
        )  # fmt: skip
        written = await writing.told(self._registry, command, name)
        if isinstance(written, web.Response):
            return written
        return await writing.answer(call, written, self._reports, name=name, wait_s=wait_s, touched=frozenset({name}))


def _adopted(call: Call) -> str | UnsetType:
    """The source that the service may be taken from."""
    given: str | UnsetType = filters_of(call, (ADOPT,)).get("adopt", UNSET)
    return "" if given == BY_HAND else given
