"""/accounts: who may sign in, for administrators without limits. The forms do what the API does."""

from collections.abc import Awaitable, Callable
from typing import get_args

import msgspec
from aiohttp import web

from kakuremichi.wire import people
from kakuremichi_portal.access import refuse_below
from kakuremichi_portal.account_writing import AccountIn, AccountWriting
from kakuremichi_portal.decoding import refuse_shape
from kakuremichi_portal.names import existing_name, new_name
from kakuremichi_portal.pages import FORM, HTML, Pages, read_form, see
from kakuremichi_portal.people import accounts
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import Access, Call, Route

Act = Callable[[Call, dict[str, str]], Awaitable[None]]

PATH = "/accounts"
ROLES = get_args(people.AccountRole)
NOTHING_GIVEN = dict.fromkeys(("name", "label", "role", "pools", "agents"), "")
TOLD = (404, 409, 422)  # on the page itself: whoever filled the form in can do something about it


class AccountsPage:
    def __init__(self, registry: Registry, pages: Pages, accounts: AccountWriting) -> None:
        self._registry, self._pages, self._accounts = registry, pages, accounts

    def routes(self) -> tuple[Route, ...]:
        done, refusals = {303: "", 422: HTML}, (403, 413, 415)
        return (
            Route("GET", PATH, "accountsPage", "Who may sign in.", Access.SESSION,
                  self.show, {200: HTML, 303: "", 503: HTML}, refusals=(403,)),
            Route("POST", PATH, "createAccountByForm", "An account with a first password.", Access.SESSION,
                  self.create, done, FORM, refusals=refusals),
            Route("POST", f"{PATH}/change", "changeAccountByForm", "Another role; its sessions end.", Access.SESSION,
                  self.change, done, FORM, refusals=refusals),
            Route("POST", f"{PATH}/remove", "removeAccountByForm", "Remove an account and end its sessions.",
                  Access.SESSION, self.remove, done, FORM, refusals=refusals),
        )  # fmt: skip

    async def show(self, call: Call) -> web.Response:
        refuse_below("admin", call.caller)
        return await self._page(call, 200)

    async def _page(
        self, call: Call, status: int, trouble: str = "", given: dict[str, str] | None = None
    ) -> web.Response:
        signed_in = call.session
        return self._pages.html(
            "accounts.html", status, caller=signed_in.principal, form_key=signed_in.form_key, trouble=trouble,
            accounts=[view async for view in accounts(self._registry, call.actor)], roles=ROLES,
            given=NOTHING_GIVEN | (given or {}),
        )  # fmt: skip

    async def create(self, call: Call) -> web.Response:
        return await self._done(call, self._create)

    async def change(self, call: Call) -> web.Response:
        return await self._done(call, self._change)

    async def remove(self, call: Call) -> web.Response:
        return await self._done(call, self._remove)

    async def _done(self, call: Call, act: Act) -> web.Response:
        refuse_below("admin", call.caller)
        form = await read_form(call.request)
        try:
            await act(call, form)
        except ProblemError as error:
            if error.status not in TOLD:
                raise
            return await self._page(call, 422, error.detail, form if act == self._create else None)
        return see(PATH)

    async def _create(self, call: Call, form: dict[str, str]) -> None:
        if form.get("password") != form.get("again"):
            raise ProblemError(422, "invalid", "password: is not the same both times", field="again")
        if not form.get("password"):
            raise ProblemError(422, "invalid", "password: a first one is needed", field="password")
        given = _account(
            label=form.get("label", ""), role=form.get("role", ""), password=form["password"],
            pools=form.get("pools", "").split(), agents=form.get("agents", "").split(),
        )  # fmt: skip
        await self._accounts.put(call, new_name(form.get("name")), given, create_only=True)

    async def _change(self, call: Call, form: dict[str, str]) -> None:
        """The role, and whether it may sign in; the rest stays as it was when the page was made."""
        seen = await self._seen(call, form)
        given = _account(
            label=seen.label, role=form.get("role", ""), pools=seen.pools, agents=seen.agents,
            disabled=form.get("disabled") == "yes",
        )  # fmt: skip
        await self._accounts.put(call, seen.name, given, subject=seen.subject, version=seen.version)

    async def _remove(self, call: Call, form: dict[str, str]) -> None:
        await self._accounts.remove(call, await self._seen(call, form))

    async def _seen(self, call: Call, form: dict[str, str]) -> people.AccountView:
        view = await self._accounts.existing(call, existing_name("account", form.get("name", "")))
        if form.get("version") != str(view.version):
            raise ProblemError(409, "changed", f"account {view.name}: was changed by somebody else; look again")
        return view


def _account(**fields: object) -> AccountIn:
    try:
        return msgspec.convert(fields, AccountIn)
    except msgspec.ValidationError as error:
        refuse_shape(error)
