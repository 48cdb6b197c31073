"""/api/v1/accounts: who may sign in."""

from typing import Annotated, Literal, get_args

from aiohttp import web
from msgspec import Meta, Struct

from kakuremichi.wire import people
from kakuremichi_portal.account_writing import AccountIn, AccountWriting
from kakuremichi_portal.conditions import IF_MATCH, IF_NONE_MATCH, refuse_changed, tagged
from kakuremichi_portal.decoding import read_body
from kakuremichi_portal.listing import PAGE_QUERY, cut, filters_of, one_of, page_of
from kakuremichi_portal.names import existing_name, new_name
from kakuremichi_portal.people import accounts
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import API, DRY_RUN, Access, Answer, Call, Route, json_response
from kakuremichi_portal.shapes import Listed, Plan

ACCOUNTS = f"{API}/accounts"
ACCOUNT = f"{ACCOUNTS}/{{name}}"


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


class Accounts(Listed, frozen=True, kw_only=True):
    items: tuple[Account, ...]


FILTERS = (one_of("role", "With this role.", *get_args(people.AccountRole)),)


class AccountRoutes:
    def __init__(self, registry: Registry, accounts: AccountWriting) -> None:
        self._registry, self._writing = registry, accounts

    def routes(self) -> tuple[Route, ...]:
        admin, dry, refusals = Access.ADMIN, (DRY_RUN,), (400, 408, 409, 413, 415, 422)
        done: Answer = (Account, Plan)
        return (
            Route("GET", ACCOUNTS, "listAccounts", "Who may sign in.", admin,
                  self.list, {200: Accounts}, query=(*FILTERS, *PAGE_QUERY)),
            Route("POST", ACCOUNTS, "createAccount", "An account with a password.", admin,
                  self.create, {200: Plan, 201: Account}, AccountIn, dry, refusals),
            Route("GET", ACCOUNT, "getAccount", "One account.", admin,
                  self.get, {200: Account, 304: ""}, refusals=(404,), headers=IF_NONE_MATCH),
            Route("PUT", ACCOUNT, "replaceAccount", "Change an account; its sessions end.", admin,
                  self.replace, {200: done}, AccountIn, dry, (404, 412, *refusals), IF_MATCH),
            Route("DELETE", ACCOUNT, "removeAccount", "Remove an account and end its sessions.", admin,
                  self.remove, {200: done}, None, dry, (404, 409, 412), IF_MATCH),
        )  # fmt: skip

    async def list(self, call: Call) -> web.Response:
        (limit, after), role = page_of(call), filters_of(call, FILTERS).get("role")
        found = (view async for view in accounts(self._registry, call.actor, after) if role in (None, view.role))
        items, more = await cut(found, limit, lambda view: view.name)
        return json_response(Accounts(items=tuple(map(_shown, items)), next_after=more))

    async def get(self, call: Call) -> web.Response:
        view = await self._writing.existing(call, existing_name("account", call.name))
        return tagged(call, _shown(view), view.version)

    async def _seen(self, call: Call) -> people.AccountView:
        """The account that the path names, as the caller has seen it."""
        view = await self._writing.existing(call, existing_name("account", call.name))
        refuse_changed(call, f"account {view.name}", _shown(view), view.version)
        return view

    async def create(self, call: Call) -> web.Response:
        given = await read_body(call.request, AccountIn)
        name = new_name(given.name)
        planned = await self._writing.put(call, name, given, create_only=True)
        if planned is not None:
            return planned
        shown = _shown(await self._writing.existing(call, name))
        return json_response(shown, 201, {"Location": f"{ACCOUNTS}/{name}"})

    async def replace(self, call: Call) -> web.Response:
        given = await read_body(call.request, AccountIn)
        seen = await self._seen(call)
        if given.name not in (None, seen.name):
            raise ProblemError(422, "invalid", "name: differs from the name in the path", field="name")
        planned = await self._writing.put(call, seen.name, given, subject=seen.subject, version=seen.version)
        return planned or json_response(_shown(await self._writing.existing(call, seen.name)))

    async def remove(self, call: Call) -> web.Response:
        seen = await self._seen(call)
        return await self._writing.remove(call, seen) or json_response(_shown(seen))


def _shown(view: people.AccountView) -> Account:
    return Account(
        name=view.name, label=view.label, role=view.role, pools=view.pools, agents=view.agents,
        disabled=view.disabled, kind="oidc" if view.subject else "password", created_at=view.created_at,
        changed_at=view.changed_at,
    )  # fmt: skip
