"""/api/v1/api-tokens: who may call this API. A token is shown once; afterwards it is known by its first characters."""

import asyncio
import time
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from kakuremichi.wire.commands import Written
from kakuremichi.wire.people import Agents, NoteApiToken, Pools
from kakuremichi_portal import access
from kakuremichi_portal.access import (
    LastAdminError,
    TokenFileError,
    Tokens,
    add_token,
    remove_token,
)
from kakuremichi_portal.decoding import read_body
from kakuremichi_portal.names import existing_name, missing, new_name
from kakuremichi_portal.principal import AccessRole, Scope
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import API, Access, Call, Route, json_response

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


class ApiTokens(Struct, frozen=True, kw_only=True):
    items: tuple[ApiToken, ...]


class ApiTokenRoutes:
    def __init__(self, tokens: Tokens, registry: Registry) -> None:
        self._tokens, self._registry = tokens, registry

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", PATH, "listApiTokens", "Tokens of this API, without themselves.", Access.ADMIN,
                  self.list, {200: ApiTokens}),
            Route("POST", PATH, "createApiToken", "A token of this API, shown once.", Access.ADMIN,
                  self.create, {201: ApiTokenCreated}, ApiTokenIn, refusals=(400, 409, 413, 415, 422)),
            Route("DELETE", ONE, "removeApiToken", "It is worth nothing from now on.", Access.ADMIN,
                  self.remove, {200: ApiToken}, refusals=(404, 409)),
        )  # fmt: skip

    async def list(self, _call: Call) -> web.Response:
        return json_response(ApiTokens(items=tuple(_shown(token) for token in self._tokens.all())))

    async def create(self, call: Call) -> web.Response:
        given = await read_body(call.request, ApiTokenIn)
        name = new_name(given.name)
        if self._tokens.named(name) is not None:
            raise ProblemError(409, "exists", f"api token {name}: exists; remove it first", field="name")
        expires_at = int(time.time()) + given.days * DAY_S
        try:
            token = await asyncio.to_thread(
                add_token, self._tokens.path, name, given.scope, expires_at=expires_at,
                scope=Scope(given.pools, given.agents),
            )  # fmt: skip
        except (TokenFileError, OSError) as error:
            raise ProblemError(409, "read-only", f"the token file cannot be written: {error}") from error
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

    async def _log_creation(self, call: Call, made: access.ApiToken) -> None:
        """A token that no event tells of shall not be: without the registry there is none."""
        command = NoteApiToken(
            actor=call.actor, name=made.name, act="created", scope=made.role, pools=made.pools, agents=made.agents,
            expires_at=_instant(made.expires_at),
        )  # fmt: skip
        try:
            await self._registry.person(command, Written)
        except ProblemError:
            await asyncio.to_thread(remove_token, self._tokens.path, made.name)
            raise

    async def remove(self, call: Call) -> web.Response:
        name = existing_name("api token", call.name)
        try:
            removed = await asyncio.to_thread(remove_token, self._tokens.path, name)
        except LastAdminError as error:
            raise ProblemError(409, "last-admin", str(error)) from error
        except (TokenFileError, OSError) as error:
            raise ProblemError(409, "read-only", f"the token file cannot be written: {error}") from error
        if removed is None:
            raise missing("api token", name)
        # It is gone first: in an emergency that counts. Whether it could be logged is said by the answer.
        await self._registry.person(
            NoteApiToken(actor=call.actor, name=name, act="removed", scope=removed.role), Written
        )
        return json_response(_shown(removed))


def _shown(token: access.ApiToken) -> ApiToken:
    return ApiToken(
        name=token.name, scope=token.role, pools=token.pools, agents=token.agents,
        prefix=token.prefix, created_at=_instant(token.created_at),
        expires_at=_instant(token.expires_at), state="expired" if token.expired(time.time()) else "open",
    )  # fmt: skip


def _instant(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)) if at else ""
