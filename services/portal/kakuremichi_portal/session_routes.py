"""/api/v1/sessions and /api/v1/setup-codes: who is signed in, and the way of the first one who ever is."""

import hashlib
import secrets
import time
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from kakuremichi.wire import people
from kakuremichi_portal import writing
from kakuremichi_portal.listing import PAGE_QUERY, cut, page_of
from kakuremichi_portal.people import end_session, sessions_for
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import API, DRY_RUN, Access, Call, Route, json_response
from kakuremichi_portal.shapes import Listed, Plan

SESSIONS = f"{API}/sessions"
SETUP_S = 3600


class Session(Struct, frozen=True, kw_only=True):
    id: Annotated[str, Meta(description="Names it, opens nothing.")]
    who: Annotated[str, Meta(description="`person/NAME`, or the name of an API token.")]
    method: people.Method
    source: str
    client: str
    opened_at: str
    seen_at: Annotated[str, Meta(description="To about a minute.")]
    ends_at: str


class SessionList(Listed, frozen=True, kw_only=True):
    items: tuple[Session, ...]


class SessionEnded(Struct, frozen=True, kw_only=True):
    id: str


class SetupCode(Struct, frozen=True, kw_only=True):
    code: Annotated[str, Meta(description="Shown once, kept by nobody.")]
    url: str
    expires_at: str


class SessionRoutes:
    def __init__(self, registry: Registry, url: str) -> None:
        self._registry, self._url = registry, url

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", SESSIONS, "listSessions", "Who is signed in; without the role `admin` one's own.",
                  Access.READ, self.list, {200: SessionList}, query=PAGE_QUERY),
            Route("DELETE", f"{SESSIONS}/{{name}}", "endSession", "End a session.", Access.READ,
                  self.end, {200: (SessionEnded, Plan)}, query=(DRY_RUN,), refusals=(404,)),
            Route("POST", f"{API}/setup-codes", "createSetupCode",
                  "A code for the first account, good for an hour; refused once there is an administrator's.",
                  Access.ADMIN, self.open_setup, {200: Plan, 201: SetupCode}, query=(DRY_RUN,), refusals=(409,)),
        )  # fmt: skip

    async def list(self, call: Call) -> web.Response:
        limit, after = page_of(call)
        found = sessions_for(self._registry, call.caller, after)
        items, more = await cut(found, limit, lambda view: view.session_id)
        return json_response(SessionList(items=tuple(map(_shown, items)), next_after=more))

    async def end(self, call: Call) -> web.Response:
        ended = await end_session(self._registry, call.caller, call.name, writing.dry_run_of(call))
        return ended if isinstance(ended, web.Response) else json_response(SessionEnded(id=call.name))

    async def open_setup(self, call: Call) -> web.Response:
        code = secrets.token_urlsafe(24)
        command = people.OpenSetup(
            actor=call.actor, code_hash=hashlib.sha256(code.encode()).digest(), ttl_s=SETUP_S,
            terms=writing.dry_run_of(call),
        )  # fmt: skip
        written = await writing.told_of_person(self._registry, command, "setup-code")
        if isinstance(written, web.Response):
            return written
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + SETUP_S))
        return json_response(SetupCode(code=code, url=f"{self._url}/setup?code={code}", expires_at=until), 201)


def _shown(view: people.SessionView) -> Session:
    return Session(
        id=view.session_id, who=view.who, method=view.method, source=view.source, client=view.client,
        opened_at=view.opened_at, seen_at=view.seen_at, ends_at=view.ends_at,
    )  # fmt: skip
