"""/api/v1/live: events of the log and changes of the nodes' reports as they come (server-sent events)."""

import asyncio
import time

from aiohttp import web
from msgspec import UNSET

from kakuremichi.wire import commands
from kakuremichi_portal import views
from kakuremichi_portal.live import END, Live, View, frame
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import API, Access, Call, Route
from kakuremichi_portal.standing import left_s, standing_of

LAST_EVENT = "Last-Event-ID"
LONGEST_S = 300.0  # then the client comes back, and has to show again who it is
MOST_MISSED = 200
HEADERS = {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
HELLO = b"retry: 2000\n: live\n\n"
MISSED = b"event: gap\ndata: {}\n\n"


class LiveRoutes:
    def __init__(self, registry: Registry, live: Live) -> None:
        self._registry, self._live = registry, live

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", f"{API}/live", "watch", "What happens, as server-sent events `event`, `node` and `gap`.",
                  Access.READ, self.watch, {200: "text/event-stream"}, refusals=(400, 429),
                  headers={LAST_EVENT: "The `seq` of the last event that was seen: later ones come first."}),
        )  # fmt: skip

    async def watch(self, call: Call) -> web.StreamResponse:
        last = _last_event(call)
        transport = call.request.transport
        standing = standing_of(call.caller, call.signed_in)
        cut = transport.abort if transport else lambda: None
        view = self._live.open(call.actor, cut, call.caller.scope, standing)
        response = web.StreamResponse(headers=HEADERS)
        try:
            await self._live.learn(view)
            # Opened before the past is asked for: an event of this moment comes twice rather than never.
            missed = await self._missed(call.actor, last) if last is not None else b""
            await response.prepare(call.request)
            await response.write(HELLO + (b"" if view.over else missed))
            await _write(response, view, min(LONGEST_S, left_s(call.caller, call.signed_in, time.time())))
        except ConnectionError:
            pass  # the client has gone
        finally:
            self._live.close(view)
        return response

    async def _missed(self, actor: str, after: int) -> bytes:
        page = await self._registry.ask(
            commands.ListEvents(actor=actor, after=after, limit=MOST_MISSED), commands.Events
        )
        frames = b"".join(frame(views.event(event)) for event in page.items)
        return MISSED + frames if len(page.items) == MOST_MISSED or page.next_after is not UNSET else frames


async def _write(response: web.StreamResponse, view: View, longest_s: float) -> None:
    try:
        async with asyncio.timeout(longest_s):
            while (piece := await view.pieces.get()) != END:
                await response.write(piece)
    except TimeoutError:
        return


def _last_event(call: Call) -> int | None:
    text = call.request.headers.get(LAST_EVENT, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ProblemError(400, "invalid", "last-event-id: a whole number is needed", field=LAST_EVENT)
    return int(text)
