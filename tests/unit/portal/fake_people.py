"""Accounts and sessions in memory, by the registry's own decisions; the real one keeps them in PostgreSQL."""

from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta

from msgspec import UNSET

from kakuremichi.wire import people
from kakuremichi.wire.commands import Plan, Result, Write, Written
from kakuremichi_registry import accounts
from kakuremichi_registry.refusal import Refusal

AT = "2026-01-02T03:04:05Z"


class FakePeople:
    def __init__(self) -> None:
        self.accounts: dict[str, accounts.Seen] = {}
        self.sessions: dict[bytes, people.SessionView] = {}
        self.codes: set[bytes] = set()
        self.facts: list[object] = []
        self.failures: list[people.NoteFailure] = []

    def decide(self, request: people.AnyPeopleRequest) -> Result:
        try:
            if isinstance(request, Write) and request.terms is not UNSET and request.terms.dry_run:
                return Plan(changed=deepcopy(self)._write(request) is not None, changes=(), readers=())
            return self._read(request) or self._written(self._write(request))
        except Refusal as refusal:
            return refusal.problem

    def _written(self, fact: object) -> Written:
        if fact is not None:
            self.facts.append(fact)
        return Written(seq=len(self.facts), log_id="log-1", positions=(), changed=fact is not None)

    def _read(self, request: people.AnyPeopleRequest) -> Result | None:
        match request:
            case people.FindAccount(name=name):
                seen = self.accounts.get(name)
                return people.AccountFound(account=seen and seen.view, password=seen.account.password if seen else "")
            case people.ListAccounts(after=after):
                found = [seen.view for name, seen in sorted(self.accounts.items()) if name > after]
                return people.Accounts(items=tuple(found))
            case people.FindSession(session_hash=id_hash):
                session = self.sessions.get(id_hash)
                seen = self.accounts.get(session.account) if session else None
                return people.SessionFound(session=session, account=seen and seen.view)
            case people.ListSessions(who=who, after=after):
                open_ = [each for each in self.sessions.values() if who in ("", each.who) and each.session_id > after]
                return people.Sessions(items=tuple(sorted(open_, key=lambda session: session.session_id)))
            case people.NoteFailure():
                self.failures.append(request)
                return people.Noted()
        return None

    def _write(self, request: people.AnyPeopleRequest) -> object:  # noqa: PLR0911  # one for each
        match request:
            case people.OpenSetup(code_hash=code):
                accounts.check_setup(done=bool(self.accounts))
                self.codes = {code}
                return request
            case people.SetUp(code_hash=code):
                account, fact = accounts.set_up(request, done=bool(self.accounts), is_open=code in self.codes)
                self._keep(account, 1)
                return fact
            case people.PutAccount(name=name):
                decided = accounts.put(request, self.accounts.get(name))
                if decided is None:
                    return None
                self._keep(decided.account, decided.version if decided.same else decided.version + 1)
                if not decided.same:
                    self._end(lambda session: session.account == name)
                return decided.fact
            case people.RemoveAccount(name=name):
                accounts.remove(request, self.accounts.get(name))
                del self.accounts[name]
                self._end(lambda session: session.account == name)
                return request
            case people.OpenSession():
                signed_in = accounts.sign_in(request, self.accounts.get(request.account))
                self._open(request, signed_in.session_id)
                return signed_in
            case people.EndSessions(who=who):
                ended, over = accounts.end(request, [s for s in self.sessions.values() if who in ("", s.who)])
                self._end(lambda session: session.session_id in ended)
                return over
            case people.NoteApiToken():
                return accounts.noted(request)
        raise AssertionError(request)

    def _keep(self, account: accounts.Account, version: int) -> None:
        view = people.AccountView(
            name=account.name, label=account.label, role=account.role, pools=account.pools, agents=account.agents,
            disabled=account.disabled, subject=account.subject, has_password=bool(account.password), version=version,
            created_at=AT, changed_at=AT,
        )  # fmt: skip
        self.accounts[account.name] = accounts.Seen(account, version, last_keeper=False, view=view)
        keepers = [name for name, seen in self.accounts.items() if accounts.is_keeper(seen.account)]
        for name, seen in self.accounts.items():
            self.accounts[name] = seen._replace(last_keeper=keepers == [name])

    def _open(self, request: people.OpenSession, session_id: str) -> None:
        self.sessions[request.session_hash] = people.SessionView(
            session_id=session_id, who=accounts.who_of(request), account=request.account,
            token_sha256=request.token_sha256, method=request.method, source=request.source, client=request.client,
            opened_at=AT, seen_at=AT, ends_at=(datetime.now(UTC) + timedelta(seconds=request.ttl_s)).isoformat(),
        )  # fmt: skip

    def _end(self, over: Callable[[people.SessionView], bool]) -> None:
        self.sessions = {key: session for key, session in self.sessions.items() if not over(session)}
