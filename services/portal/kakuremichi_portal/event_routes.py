"""/api/v1/events: the log, a page at a time."""

from aiohttp import web
from msgspec import UNSET

from kakuremichi.wire import commands
from kakuremichi_portal import views
from kakuremichi_portal.decoding import query_flag, query_int
from kakuremichi_portal.names import missing
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import API, Access, Call, Query, Route, json_response
from kakuremichi_portal.shapes import Event, Events

PATH = f"{API}/events"
ONE = f"{PATH}/{{name}}"
MAX_SEQ = 2**63 - 1
QUERY = (
    Query("after", "Only later ones than this `seq`; with `newest_first` only earlier ones, 0 being from the newest.",
          {"type": "integer", "minimum": 0, "default": 0}),
    Query("limit", "At most so many.", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}),
    Query("newest_first", "`true`: from the newest backwards.", {"type": "boolean", "default": False}),
)  # fmt: skip


class EventRoutes:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", PATH, "listEvents", "What has happened, as it stands in the log.", Access.READ,
                  self.list, {200: Events}, query=QUERY, refusals=(400,)),
            Route("GET", ONE, "getEvent", "One event by its `seq`.", Access.READ,
                  self.get, {200: Event}, refusals=(404,)),
        )  # fmt: skip

    async def list(self, call: Call) -> web.Response:
        command = commands.ListEvents(
            actor=call.actor,
            after=query_int(call.request, "after", 0, least=0, most=MAX_SEQ),
            limit=query_int(call.request, "limit", 50, least=1, most=200),
            newest_first=query_flag(call.request, "newest_first"),
        )
        found = await self._registry.ask(command, commands.Events)
        more = "" if found.next_after is UNSET else str(found.next_after)
        return json_response(Events(items=tuple(map(views.event, found.items)), next_after=more))

    async def get(self, call: Call) -> web.Response:
        seq = event_seq(call.name)
        command = commands.ListEvents(actor=call.actor, after=seq - 1, limit=1)
        found = await self._registry.ask(command, commands.Events)
        for view in found.items:
            if view.seq == seq:
                return json_response(views.event(view))
        raise missing("event", str(seq))


def event_seq(text: str) -> int:
    """The `seq` in a path; what is no such number names no event (404)."""
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) > 0):
        raise missing("event", "")
    return int(text)
