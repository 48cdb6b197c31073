"""/account: one's own sessions and password; an administrator sees everybody's sessions."""

from aiohttp import web

from kakuremichi.wire import people
from kakuremichi.wire.commands import Written
from kakuremichi_portal.limits import AttemptLimit
from kakuremichi_portal.pages import FORM, HTML, Pages, read_form, see
from kakuremichi_portal.passwords import Passwords, check_new
from kakuremichi_portal.people import end_session, sessions_for
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import Access, Call, Route


class AccountPage:
    def __init__(self, registry: Registry, pages: Pages, passwords: Passwords, limit: AttemptLimit) -> None:
        self._registry, self._pages, self._passwords, self._limit = registry, pages, passwords, limit

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/account", "accountPage", "Sessions and password.", Access.SESSION,
                  self.show, {200: HTML, 303: "", 503: HTML}),
            Route("POST", "/account/password", "changePassword", "Another password; ends all sessions.",
                  Access.SESSION, self.change_password, {303: "", 422: HTML}, FORM, refusals=(403, 413, 415, 429)),
            Route("POST", "/account/sessions/end", "endSessionByForm", "End a session.", Access.SESSION,
                  self.end, {303: ""}, FORM, refusals=(403, 404, 413, 415)),
        )  # fmt: skip

    async def show(self, call: Call) -> web.Response:
        return await self._page(call, 200)

    async def _page(self, call: Call, status: int, trouble: str = "") -> web.Response:
        signed_in = call.session
        found = [session async for session in sessions_for(self._registry, signed_in.principal)]
        return self._pages.html(
            "account.html", status, caller=signed_in.principal, form_key=signed_in.form_key, trouble=trouble,
            sessions=found, all=signed_in.principal.mends_everything, own=signed_in.view.session_id,
            has_password=signed_in.view.method == "password",
        )  # fmt: skip

    async def end(self, call: Call) -> web.Response:
        form = await read_form(call.request)
        await end_session(self._registry, call.session.principal, form.get("session", ""))
        return see("/account")

    async def change_password(self, call: Call) -> web.Response:
        """Only who knows the present one: a browser that was left open is not enough."""
        form, name = await read_form(call.request), call.session.principal.account
        self._limit.count(f"password of {name}")
        try:
            await self._change(call, name, form)
        except ProblemError as error:
            if error.status not in (401, 409, 422):
                raise
            return await self._page(call, 422, error.detail)
        return see("/sign-in?next=%2Faccount")

    async def _change(self, call: Call, name: str, form: dict[str, str]) -> None:
        found = await self._registry.person(people.FindAccount(actor=call.actor, name=name), people.AccountFound)
        if not await self._passwords.verify(found.password, form.get("current", "")) or found.account is None:
            raise ProblemError(401, "unauthenticated", "password: the present one is wrong", field="current")
        if form.get("password") != form.get("again"):
            raise ProblemError(422, "invalid", "password: the new one is not the same both times", field="again")
        check_new(form.get("password", ""), name)
        account = found.account
        command = people.PutAccount(
            actor=call.actor, name=name, label=account.label, role=account.role,
            pools=account.pools, agents=account.agents,  # type: ignore[arg-type]  # as they came
            password=await self._passwords.hash(form["password"]), seen_version=account.version,
        )  # fmt: skip
        await self._registry.person(command, Written)
