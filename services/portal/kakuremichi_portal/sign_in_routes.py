"""Signing in and out, and the first account. No answer says whether a name exists, nor takes longer if it does."""

import hashlib
from contextlib import suppress

from aiohttp import web

from kakuremichi.model.ids import is_token
from kakuremichi.wire import people
from kakuremichi.wire.commands import Written
from kakuremichi_portal.access import Tokens
from kakuremichi_portal.limits import AttemptLimit
from kakuremichi_portal.pages import FORM, HTML, Pages, local_path, read_form, refuse_foreign_form, see
from kakuremichi_portal.passwords import Passwords, check_new
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import Access, Call, Query, Route
from kakuremichi_portal.sessions import Sessions

NEXT = Query("next", "The page to be shown then: a path of this portal.", {"type": "string"})
CODE = Query("code", "As `kakuremichi up` prints it.", {"type": "string"})
WRONG = "Name or password is wrong."
WRONG_TOKEN = "This token is not known. Check that it is whole."


class SignInRoutes:
    def __init__(
        self, registry: Registry, tokens: Tokens, sessions: Sessions, pages: Pages, *, addresses: AttemptLimit,
        accounts: AttemptLimit, passwords: Passwords, oidc_label: str = "",
    ) -> None:  # fmt: skip
        self._registry, self._tokens, self._sessions, self._pages = registry, tokens, sessions, pages
        self._addresses, self._accounts, self._passwords = addresses, accounts, passwords
        self._oidc_label = oidc_label

    def routes(self) -> tuple[Route, ...]:
        refusals = (403, 413, 415, 429)
        return (
            Route("GET", "/sign-in", "signInPage", "The sign-in form.", Access.OPEN,
                  self.form, {200: HTML, 303: ""}, query=(NEXT,)),
            Route("POST", "/sign-in", "signIn", "A session for an account or an API token.", Access.OPEN,
                  self.sign_in, {303: "", 401: HTML, 503: HTML}, FORM, refusals=refusals),
            Route("POST", "/sign-out", "signOut", "End the session.", Access.SESSION,
                  self.sign_out, {303: ""}, FORM, refusals=(403, 413, 415)),
            Route("GET", "/setup", "setupPage", "The form for the first account.", Access.OPEN,
                  self.setup_form, {200: HTML}, query=(CODE,)),
            Route("POST", "/setup", "setUp", "Make the first account, once.", Access.OPEN,
                  self.set_up, {303: "", 403: HTML, 422: HTML, 503: HTML}, FORM, refusals=refusals),
        )  # fmt: skip

    async def form(self, call: Call) -> web.Response:
        goal = local_path(call.request.query.get("next", "/"))
        with suppress(ProblemError):  # while the registry is away, the form is all there is
            if await self._sessions.find(call.request) is not None:
                return see(goal)
        return self._form(200, goal)

    def _form(self, status: int, goal: str, trouble: str = "") -> web.Response:
        return self._pages.html("sign_in.html", status, goal=goal, trouble=trouble, oidc=self._oidc_label)

    async def sign_in(self, call: Call) -> web.Response:
        refuse_foreign_form(call.request)
        self._addresses.count(call.source)
        form = await read_form(call.request)
        goal = local_path(form.get("next", "/"))
        by_token = "token" in form
        try:
            value = await (self._by_token(call, form["token"]) if by_token else self._by_password(call, form))
        except ProblemError as error:
            if error.status == 401:
                return self._form(401, goal, error.detail)
            if error.status >= 500:
                return self._form(503, goal, "The registry does not answer; nobody can sign in for the moment.")
            raise
        return await self.let_in(call, value, see(goal))

    async def let_in(self, call: Call, value: str, response: web.Response) -> web.Response:
        """Give the browser its new session; the one that it had is over."""
        with suppress(ProblemError):
            before = await self._sessions.find(call.request)
            if before is not None:
                await self._sessions.sign_out(before)
        self._sessions.set_cookie(response, value)
        return response

    async def _by_token(self, call: Call, text: str) -> str:
        token = self._tokens.find(text.strip())
        if token is None:
            await self.note_failure(call, "api token: not known")
            raise ProblemError(401, "unauthenticated", WRONG_TOKEN)
        return await self._sessions.open_token(call, token)

    async def _by_password(self, call: Call, form: dict[str, str]) -> str:
        name, password = form.get("name", "").strip().lower(), form.get("password", "")
        self._accounts.look(_key(name))
        # What can be nobody's name is asked for as the empty one, so that it takes as long.
        asked = name if is_token(name) else ""
        found = await self._registry.person(people.FindAccount(actor="portal", name=asked), people.AccountFound)
        right = await self._passwords.verify(found.password, password)
        if found.account is None or not right or found.account.disabled:
            with suppress(ProblemError):
                self._accounts.count(_key(name))
            # People type their password where the name belongs: what is no name is not kept.
            await self.note_failure(call, f"account {asked or '(no name)'}: not let in")
            raise ProblemError(401, "unauthenticated", WRONG)
        return await self._sessions.open_account(call, found.account, "password")

    async def note_failure(self, call: Call, detail: str) -> None:
        with suppress(ProblemError):
            await self._registry.person(
                people.NoteFailure(actor=call.source, code="sign-in", detail=detail), people.Noted
            )

    async def sign_out(self, call: Call) -> web.Response:
        await self._sessions.sign_out(call.session)
        response = see("/sign-in")
        self._sessions.forget_cookie(response)
        return response

    async def setup_form(self, call: Call) -> web.Response:
        return self._setup(200, code=call.request.query.get("code", "")[:64])

    def _setup(self, status: int, *, code: str, name: str = "", trouble: str = "") -> web.Response:
        return self._pages.html("setup.html", status, code=code, name=name, trouble=trouble)

    async def set_up(self, call: Call) -> web.Response:
        refuse_foreign_form(call.request)
        self._addresses.count(call.source)
        form = await read_form(call.request)
        code, name = form.get("code", "").strip()[:64], form.get("name", "").strip().lower()
        try:
            account = await self._make_first(code, name, form)
            value = await self._sessions.open_account(call, account, "password")
        except ProblemError as error:
            if error.status == 429:
                raise
            return self._setup(min(error.status, 503), code=code, name=name[:31], trouble=error.detail)
        return await self.let_in(call, value, see("/"))

    async def _make_first(self, code: str, name: str, form: dict[str, str]) -> people.AccountView:
        if not is_token(name):
            raise ProblemError(422, "invalid", "name: 1 to 31 of a-z, 0-9 and `-`, not led by `-`", field="name")
        if form.get("password") != form.get("again"):
            raise ProblemError(422, "invalid", "password: is not the same both times", field="again")
        check_new(form.get("password", ""), name)
        command = people.SetUp(
            actor=f"person/{name}", code_hash=hashlib.sha256(code.encode()).digest(), name=name,
            password=await self._passwords.hash(form["password"]),
        )  # fmt: skip
        await self._registry.person(command, Written)
        found = await self._registry.person(people.FindAccount(actor="portal", name=name), people.AccountFound)
        if found.account is None:
            raise ProblemError(503, "gone", "account: was removed at once; try again")
        return found.account


def _key(name: str) -> str:
    """Of the limit per account: no address is called so."""
    return f"account {name[:64]}"
