"""/api/v1/accounts, /sessions and /setup-codes: who may sign in, and who is signed in."""

import hashlib
import secrets
import time
from typing import Annotated, Literal

from aiohttp import web
from msgspec import UNSET, Meta, Struct

from kakuremichi.wire import people
from kakuremichi.wire.commands import Written
from kakuremichi_portal.decoding import read_body
from kakuremichi_portal.names import existing_name, missing, new_name
from kakuremichi_portal.passwords import Passwords, check_new
from kakuremichi_portal.people import accounts, end_session, sessions_for
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import API, Access, Call, Route, json_response

ACCOUNTS = f"{API}/accounts"
ACCOUNT = f"{ACCOUNTS}/{{name}}"
SESSIONS = f"{API}/sessions"
SETUP_S = 3600


class AccountIn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str | None, Meta(description="Needed to create; with PUT the path names it.")] = None
    label: Annotated[people.Label, Meta(description="What people call whoever has it.")] = ""
    role: Annotated[people.AccountRole, Meta(description="`viewer` reads, `publisher` changes services, `admin` all.")]
    pools: Annotated[people.Pools, Meta(description="Only these; empty: all.")] = ()
    agents: Annotated[people.Agents, Meta(description="Only these; empty: all.")] = ()
    disabled: bool = False
    password: Annotated[str, Meta(max_length=256, description="12 characters or more. Without: it stays.")] = ""


class Account(Struct, frozen=True, kw_only=True):
    name: str
    label: str
    role: people.AccountRole
    pools: tuple[str, ...]
    agents: tuple[str, ...]
    disabled: bool
    kind: Annotated[Literal["password", "oidc"], Meta(description="`oidc`: role and limits come from the provider.")]
    created_at: str
    changed_at: str


class Accounts(Struct, frozen=True, kw_only=True):
    items: tuple[Account, ...]


class Session(Struct, frozen=True, kw_only=True):
    id: Annotated[str, Meta(description="Names it, opens nothing.")]
    who: Annotated[str, Meta(description="`person/NAME`, or the name of an API token.")]
    method: people.Method
    source: str
    client: str
    opened_at: str
    seen_at: Annotated[str, Meta(description="To about a minute.")]
    ends_at: str


class SessionList(Struct, frozen=True, kw_only=True):
    items: tuple[Session, ...]


class SessionEnded(Struct, frozen=True, kw_only=True):
    id: str


class SetupCode(Struct, frozen=True, kw_only=True):
    code: Annotated[str, Meta(description="Shown once, kept by nobody.")]
    url: str
    expires_at: str


class AccountRoutes:
    def __init__(self, registry: Registry, passwords: Passwords, url: str) -> None:
        self._registry, self._passwords, self._url = registry, passwords, url

    def routes(self) -> tuple[Route, ...]:
        admin, refusals = Access.ADMIN, (400, 409, 413, 415, 422)
        return (
            Route("GET", ACCOUNTS, "listAccounts", "Who may sign in.", admin, self.list, {200: Accounts}),
            Route("POST", ACCOUNTS, "createAccount", "An account with a password.", admin,
                  self.create, {201: Account}, AccountIn, refusals=refusals),
            Route("GET", ACCOUNT, "getAccount", "One account.", admin, self.get, {200: Account}, refusals=(404,)),
            Route("PUT", ACCOUNT, "replaceAccount", "Change an account; its sessions end.", admin,
                  self.replace, {200: Account}, AccountIn, refusals=(404, *refusals)),
            Route("DELETE", ACCOUNT, "removeAccount", "Remove an account and end its sessions.", admin,
                  self.remove, {200: Account}, refusals=(404, 409)),
            Route("GET", SESSIONS, "listSessions", "Who is signed in; without the role `admin` one's own.",
                  Access.READ, self.sessions, {200: SessionList}),
            Route("DELETE", f"{SESSIONS}/{{name}}", "endSession", "End a session.", Access.READ,
                  self.end_session, {200: SessionEnded}, refusals=(404,)),
            Route("POST", f"{API}/setup-codes", "createSetupCode",
                  "A code for the first account, good for an hour; refused once there is an administrator's.", admin,
                  self.open_setup, {201: SetupCode}, refusals=(409,)),
        )  # fmt: skip

    async def list(self, call: Call) -> web.Response:
        found = await accounts(self._registry, call.actor)
        return json_response(Accounts(items=tuple(map(_shown, found))))

    async def get(self, call: Call) -> web.Response:
        return json_response(_shown(await self._existing(call, existing_name("account", call.name))))

    async def _existing(self, call: Call, name: str) -> people.AccountView:
        found = await self._registry.person(people.FindAccount(actor=call.actor, name=name), people.AccountFound)
        if found.account is None:
            raise missing("account", name)
        return found.account

    async def create(self, call: Call) -> web.Response:
        given = await read_body(call.request, AccountIn)
        name = new_name(given.name)
        await self._put(call, name, given, subject="", create_only=True)
        shown = _shown(await self._existing(call, name))
        return json_response(shown, 201, {"Location": f"{ACCOUNTS}/{name}"})

    async def replace(self, call: Call) -> web.Response:
        given = await read_body(call.request, AccountIn)
        name = existing_name("account", call.name)
        if given.name not in (None, name):
            raise ProblemError(422, "invalid", "name: differs from the name in the path", field="name")
        seen = await self._existing(call, name)
        await self._put(call, name, given, subject=seen.subject, version=seen.version)
        return json_response(_shown(await self._existing(call, name)))

    async def _put(
        self, call: Call, name: str, given: AccountIn, *, subject: str, version: int = 0, create_only: bool = False
    ) -> None:
        if given.password:
            check_new(given.password, name)
        command = people.PutAccount(
            actor=call.actor, name=name, label=given.label, role=given.role, pools=given.pools, agents=given.agents,
            disabled=given.disabled, subject=subject, create_only=create_only, seen_version=version,
            password=await self._passwords.hash(given.password) if given.password else UNSET,
        )  # fmt: skip
        await self._registry.person(command, Written)

    async def remove(self, call: Call) -> web.Response:
        name = existing_name("account", call.name)
        seen = await self._existing(call, name)
        await self._registry.person(people.RemoveAccount(actor=call.actor, name=name), Written)
        return json_response(_shown(seen))

    async def sessions(self, call: Call) -> web.Response:
        found = await sessions_for(self._registry, call.caller)
        return json_response(SessionList(items=tuple(map(_session, found))))

    async def end_session(self, call: Call) -> web.Response:
        await end_session(self._registry, call.caller, call.name)
        return json_response(SessionEnded(id=call.name))

    async def open_setup(self, call: Call) -> web.Response:
        code = secrets.token_urlsafe(24)
        command = people.OpenSetup(actor=call.actor, code_hash=hashlib.sha256(code.encode()).digest(), ttl_s=SETUP_S)
        await self._registry.person(command, Written)
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + SETUP_S))
        return json_response(SetupCode(code=code, url=f"{self._url}/setup?code={code}", expires_at=until), 201)


def _shown(view: people.AccountView) -> Account:
    return Account(
        name=view.name, label=view.label, role=view.role, pools=view.pools, agents=view.agents,
        disabled=view.disabled, kind="oidc" if view.subject else "password", created_at=view.created_at,
        changed_at=view.changed_at,
    )  # fmt: skip


def _session(view: people.SessionView) -> Session:
    return Session(
        id=view.session_id, who=view.who, method=view.method, source=view.source, client=view.client,
        opened_at=view.opened_at, seen_at=view.seen_at, ends_at=view.ends_at,
    )  # fmt: skip
