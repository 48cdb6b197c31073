"""What the portal asks about people: who they are, whether they are signed in, and that their acts are logged."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from kakuremichi.wire.codec import WireError
from kakuremichi.wire.commands import Plan, Problem
from kakuremichi.wire.commands import Written as WrittenAnswer
from kakuremichi.wire.facts import AccountRemoved, SetupOpened
from kakuremichi.wire.people import (
    AccountFound,
    Accounts,
    AnyPeopleRequest,
    AnyPeopleResult,
    EndSessions,
    FindAccount,
    FindSession,
    ListAccounts,
    ListSessions,
    NoteApiToken,
    Noted,
    NoteFailure,
    OpenSession,
    OpenSetup,
    PutAccount,
    RemoveAccount,
    SessionFound,
    Sessions,
    SessionView,
    SetUp,
)
from kakuremichi_registry import accounts, plans
from kakuremichi_registry.access import AccessLog
from kakuremichi_registry.commands import check_texts
from kakuremichi_registry.database import Database, StaleError
from kakuremichi_registry.enrolment import instant
from kakuremichi_registry.refusal import FAILURES, Refusal, failure
from kakuremichi_registry.store import people
from kakuremichi_registry.store.entries import Written, entry_of
from kakuremichi_registry.terms import is_dry_run
from kakuremichi_registry.views import fitting

ATTEMPTS = 8

Deed = Callable[[], Awaitable[Written]]  # a decision that has yet to be written


class People:
    """Answers `cp.registry.people`."""

    def __init__(self, database: Database, access: AccessLog, *, wrote: Callable[[int], None]) -> None:
        self._database, self._access, self._wrote = database, access, wrote

    async def answer(self, _subject: str, request: AnyPeopleRequest) -> AnyPeopleResult:
        try:
            return await self._answer(request)
        except Refusal as refusal:
            self._access.refused(request, refusal.problem)
            return refusal.problem
        except FAILURES as error:
            return failure(error, type(request).__name__)

    @staticmethod
    def refuse(error: WireError) -> Problem:
        return Problem(status=400, code="malformed", detail=str(error))

    async def _answer(self, request: AnyPeopleRequest) -> AnyPeopleResult:
        if not isinstance(request, NoteFailure):
            check_texts(request)
        match request:
            case FindAccount():
                seen = await people.find(self._database, request.name)
                return AccountFound(account=seen.view, password=seen.account.password) if seen else _NOBODY
            case FindSession():
                session = await people.find_session(self._database, request.session_hash)
                return SessionFound(session=session.view, account=session.account) if session else _OVER
            case ListAccounts():
                return await self._accounts(request)
            case ListSessions():
                return await self._sessions(request)
            case NoteFailure():
                self._access.refused(request, Problem(status=401, code=request.code, detail=request.detail))
                return Noted()
        return await self._write(request)

    async def _accounts(self, request: ListAccounts) -> Accounts:
        found = await people.accounts(self._database, request.after)
        items, more = fitting(found)
        return Accounts(items=items, next_after=items[-1].name if more or len(found) == people.PAGE else "")

    async def _sessions(self, request: ListSessions) -> Sessions:
        found = await people.sessions(self._database, request.who, request.after)
        items, more = fitting(found)
        return Sessions(items=items, next_after=items[-1].session_id if more or len(found) == people.PAGE else "")

    async def _write(self, request: AnyPeopleRequest) -> WrittenAnswer | Plan:
        """Decide and write; what has changed in between is looked at again."""
        if is_dry_run(request):
            return plans.NOTHING if await self._decide(request) is None else plans.NO_NODE
        for attempt in range(1, ATTEMPTS + 1):
            try:
                deed = await self._decide(request)
                written = None if deed is None else await deed()
            except StaleError:
                if attempt == ATTEMPTS:
                    raise
            else:
                return self._told(written)
        raise StaleError("write: given up")

    def _told(self, written: Written | None) -> WrittenAnswer:
        if written is None:
            return WrittenAnswer(seq=0, log_id="", positions=(), changed=False)
        self._wrote(written.seq)
        return WrittenAnswer(seq=written.seq, log_id=written.log_id, positions=())

    async def _decide(self, request: AnyPeopleRequest) -> Deed | None:
        """None: everything is so already."""
        database = self._database
        match request:
            case OpenSetup():
                done, _ = await people.see_setup(database, request.code_hash)
                accounts.check_setup(done=done)
                until = datetime.now(UTC) + timedelta(seconds=request.ttl_s)
                entry = entry_of(SetupOpened(expires_at=instant(until)), request)
                return partial(people.open_setup, database, entry, request.code_hash, until)
            case SetUp():
                done, is_open = await people.see_setup(database, request.code_hash)
                account, fact = accounts.set_up(request, done=done, is_open=is_open)
                return partial(people.set_up, database, entry_of(fact, request), request.code_hash, account)
            case PutAccount():
                return await self._put(request)
            case RemoveAccount():
                version = accounts.remove(request, await people.find(database, request.name))
                entry = entry_of(AccountRemoved(account=request.name), request)
                return partial(people.remove, database, entry, request.name, version)
            case _:
                return await self._decide_session(request)

    async def _decide_session(self, request: AnyPeopleRequest) -> Deed:
        database = self._database
        match request:
            case OpenSession():
                seen = await people.find(database, request.account) if request.account else None
                fact = accounts.sign_in(request, seen)
                return partial(people.open_session, database, entry_of(fact, request), fact.session_id, request)
            case EndSessions():
                ended, over = accounts.end(request, await self._all_sessions(request.who))
                return partial(people.end_sessions, database, entry_of(over, request), ended)
            case NoteApiToken():
                return partial(people.note, database, entry_of(accounts.noted(request), request))
        raise TypeError(f"{type(request).__name__} is no write")

    async def _put(self, request: PutAccount) -> Deed | None:
        decided = accounts.put(request, await people.find(self._database, request.name))
        if decided is None:
            return None
        entry = entry_of(decided.fact, request)
        return partial(people.put, self._database, entry, decided.version, decided.account, same=decided.same)

    async def _all_sessions(self, who: str) -> list[SessionView]:
        found = await people.sessions(self._database, who, "")
        while len(found) % people.PAGE == 0 and found:
            page = await people.sessions(self._database, who, found[-1].session_id)
            if not page:
                break
            found += page
        return found


_NOBODY = AccountFound(account=None)
_OVER = SessionFound(session=None)
