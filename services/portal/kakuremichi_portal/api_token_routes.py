"""/api/v1/api-tokens: who may call this API. A token is shown once; afterwards it is known by its first characters."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, get_args

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from kakuremichi.wire.commands import Terms, Written
from kakuremichi.wire.people import Agents, NoteApiToken, Pools
from kakuremichi_portal import access, standing, writing
from kakuremichi_portal.access import (
    LastAdminError,
    TokenFileError,
    Tokens,
    add_token,
    refuse_read_only,
    remove_token,
    without,
)
from kakuremichi_portal.conditions import IF_MATCH, IF_NONE_MATCH, refuse_changed, tagged
from kakuremichi_portal.decoding import query_dry_run, read_body
from kakuremichi_portal.listing import PAGE_QUERY, cut, filters_of, one_of, page_of
from kakuremichi_portal.live import Live
from kakuremichi_portal.names import existing_name, missing, new_name
from kakuremichi_portal.principal import AccessRole, Scope
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import API, DRY_RUN, Access, Call, Route, json_response
from kakuremichi_portal.shapes import Listed, Plan

PATH = f"{API}/api-tokens"
ONE = f"{PATH}/{{name}}"
DAY_S = 86400


class ApiTokenIn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    scope: Annotated[AccessRole, Meta(description="`read`, `publish` services too, `admin` everything.")]
    pools: Annotated[Pools, Meta(description="Only these; empty: all.")] = ()
    agents: Annotated[Agents, Meta(description="Only these; empty: all.")] = ()
    days: Annotated[int, Meta(ge=1, le=3650, description="It expires after so many.")] = 90


class ApiToken(Struct, frozen=True, kw_only=True):
    name: str
    scope: AccessRole
    pools: tuple[str, ...]
    agents: tuple[str, ...]
    prefix: Annotated[str, Meta(description="Its first characters: enough to tell which one it is.")]
    created_at: str
    expires_at: Annotated[str, Meta(description="Empty: never.")]
    state: str


class ApiTokenCreated(ApiToken, frozen=True, kw_only=True):
    token: Annotated[str, Meta(description="Shown once, kept by nobody.")]


class ApiTokens(Listed, frozen=True, kw_only=True):
    items: tuple[ApiToken, ...]


FILTERS = (
    one_of("scope", "With this scope.", *get_args(AccessRole)),
    one_of("state", "In this state.", "open", "expired"),
)


class ApiTokenRoutes:
    def __init__(self, tokens: Tokens, registry: Registry, live: Live) -> None:
        self._tokens, self._registry, self._live = tokens, registry, live

    def routes(self) -> tuple[Route, ...]:
        admin, dry, refusals = Access.ADMIN, (DRY_RUN,), (400, 408, 409, 413, 415, 422)
        return (
            Route("GET", PATH, "listApiTokens", "Tokens of this API, without themselves.", admin,
                  self.list, {200: ApiTokens}, query=(*FILTERS, *PAGE_QUERY)),
            Route("GET", ONE, "getApiToken", "One of them, without itself.", admin,
                  self.get, {200: ApiToken, 304: ""}, refusals=(404,), headers=IF_NONE_MATCH),
            # No idempotency key: a repetition could not show the token again, which nobody keeps.
            Route("POST", PATH, "createApiToken", "A token of this API, shown once.", admin,
                  self.create, {200: Plan, 201: ApiTokenCreated}, ApiTokenIn, dry, refusals),
            Route("DELETE", ONE, "removeApiToken", "It is worth nothing from now on.", admin,
                  self.remove, {200: (ApiToken, Plan)}, None, dry, (404, 409, 412), IF_MATCH),
        )  # fmt: skip

    async def list(self, call: Call) -> web.Response:
        (limit, after), wanted = page_of(call), filters_of(call, FILTERS)
        items, more = await cut(self._listed(after, wanted), limit, lambda token: token.name)
        return json_response(ApiTokens(items=items, next_after=more))

    async def _listed(self, after: str, wanted: Mapping[str, str]) -> AsyncIterator[ApiToken]:
        for token in map(_shown, self._tokens.all()):
            if token.name > after and all(getattr(token, name) == value for name, value in wanted.items()):
                yield token

    async def get(self, call: Call) -> web.Response:
        token = self._existing(call)
        return tagged(call, _shown(token), token.created_at)

    def _existing(self, call: Call) -> access.ApiToken:
        name = existing_name("api token", call.name)
        token = self._tokens.named(name)
        if token is None:
            raise missing("api token", name)
        return token

    async def create(self, call: Call) -> web.Response:
        given = await read_body(call.request, ApiTokenIn)
        name = new_name(given.name)
        if self._tokens.named(name) is not None:
            raise ProblemError(409, "exists", f"api token {name}: exists; remove it first", field="name")
        expires_at, limits = int(time.time()) + given.days * DAY_S, Scope(given.pools, given.agents)
        if query_dry_run(call.request):
            return await self._planned(_creation(call.actor, name, given.scope, limits, expires_at), name)
        try:
            token = await asyncio.to_thread(
                add_token, self._tokens.path, name, given.scope, expires_at=expires_at,
                scope=limits,
            )  # fmt: skip
        except (TokenFileError, OSError) as error:
            raise _read_only(error) from error
        made = self._tokens.find(token)
        if made is None:
            raise ProblemError(409, "read-only", "the token file was changed by somebody else; try again")
        await self._log_creation(call, made)
        shown = _shown(made)
        body = ApiTokenCreated(
            name=shown.name, scope=shown.scope, pools=shown.pools, agents=shown.agents,
            prefix=shown.prefix, created_at=shown.created_at,
            expires_at=shown.expires_at, state=shown.state, token=token,
        )  # fmt: skip
        return json_response(body, 201, {"Location": f"{PATH}/{name}"})

    async def _planned(self, command: NoteApiToken, name: str) -> web.Response:
        """What a dry run answers: the file could be written, and the registry would log it."""
        try:
            refuse_read_only(self._tokens.path)
        except OSError as error:
            raise _read_only(error) from error
        terms = Terms(dry_run=True)
        planned = await writing.told_of_person(self._registry, msgspec.structs.replace(command, terms=terms), name)
        if not isinstance(planned, web.Response):
            raise ProblemError(502, "registry-answer", "the registry wrote what was to be a dry run")
        return planned

    async def _log_creation(self, call: Call, made: access.ApiToken) -> None:
        """A token that no event tells of shall not be: without the registry there is none."""
        command = _creation(call.actor, made.name, made.role, made.scope, made.expires_at)
        try:
            await self._registry.person(command, Written)
        except ProblemError:
            await asyncio.to_thread(remove_token, self._tokens.path, made.name)
            raise

    async def remove(self, call: Call) -> web.Response:
        seen = self._existing(call)
        refuse_changed(call, f"api token {seen.name}", _shown(seen), seen.created_at)
        note = NoteApiToken(actor=call.actor, name=seen.name, act="removed", scope=seen.role)
        try:
            if query_dry_run(call.request):
                without(self._tokens.all(), seen.name)
                return await self._planned(note, seen.name)
            removed = await asyncio.to_thread(remove_token, self._tokens.path, seen.name)
        except LastAdminError as error:
            raise ProblemError(409, "last-admin", str(error)) from error
        except (TokenFileError, OSError) as error:
            raise _read_only(error) from error
        if removed is None:
            raise missing("api token", seen.name)
        # It is gone first: in an emergency that counts. Whether it could be logged is said by the answer; other portals
        # end what is open with it when they hear of that.
        self._live.take_away(frozenset({standing.token(seen.name)}))
        await self._registry.person(note, Written)
        return json_response(_shown(removed))


def _creation(actor: str, name: str, scope: AccessRole, limits: Scope, expires_at: int) -> NoteApiToken:
    return NoteApiToken(
        actor=actor, name=name, act="created", scope=scope, pools=msgspec.convert(limits.pools, Pools),
        agents=msgspec.convert(limits.agents, Agents), expires_at=_instant(expires_at),
    )  # fmt: skip


def _read_only(error: Exception) -> ProblemError:
    return ProblemError(409, "read-only", f"the token file cannot be written: {error}")


def _shown(token: access.ApiToken) -> ApiToken:
    return ApiToken(
        name=token.name, scope=token.role, pools=token.pools, agents=token.agents,
        prefix=token.prefix, created_at=_instant(token.created_at),
        expires_at=_instant(token.expires_at), state="expired" if token.expired(time.time()) else "open",
    )  # fmt: skip


def _instant(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)) if at else ""
