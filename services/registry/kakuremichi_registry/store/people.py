"""Accounts, sessions and the setup code: what decisions look at, lists, and their writes."""

from datetime import datetime
from typing import NamedTuple

import asyncpg

from kakuremichi.wire.people import AccountView, Method, OpenSession, SessionView
from kakuremichi_registry.accounts import Account, Seen, is_keeper, who_of
from kakuremichi_registry.database import Database
from kakuremichi_registry.enrolment import instant
from kakuremichi_registry.store.entries import Entry, Written

PAGE = 100
_ACCOUNT = """
a.name, a.label, a.role, a.pools, a.agents, a.password, a.subject, a.disabled, a.version, a.created_at, a.changed_at
"""
_SESSION = """
s.session_id, s.who, s.account, s.token_sha256, s.method, s.source, s.client, s.opened_at, s.seen_at,
s.ends_at
"""
_ON = "s.ends_at > clock_timestamp() and s.seen_at + s.idle > clock_timestamp()"

ACCOUNT = f"""
select {_ACCOUNT}, (select count(*) from account k where kk_is_keeper(k)) as keepers
from account a where a.name = $1
"""  # noqa: S608  # constants of ours only
ACCOUNTS = f"select {_ACCOUNT} from account a where a.name > $1 order by a.name limit {PAGE}"  # noqa: S608
SETUP = """
select exists(select from account a where kk_is_keeper(a)) as done,
       exists(select from setup_code where code_hash = $1 and expires_at > clock_timestamp()) as open
"""
SESSION = f"""
select {_SESSION}, {_ACCOUNT}, s.seen_at < clock_timestamp() - interval '1 minute' as stale
from portal_session s left join account a on a.name = s.account
where s.id_hash = $1 and {_ON} and not coalesce(a.disabled, false)
"""  # noqa: S608
SESSIONS = f"""
select {_SESSION} from portal_session s
where {_ON} and ($1 = '' or s.who = $1) and s.session_id > $2 order by s.session_id limit {PAGE}
"""  # noqa: S608
SEEN = "update portal_session set seen_at = clock_timestamp() where id_hash = $1"


class Session(NamedTuple):
    view: SessionView
    account: AccountView | None


async def find(database: Database, name: str) -> Seen | None:
    row = await database.fetch_one(ACCOUNT, name)
    if row is None:
        return None
    account = Account(
        row["name"], row["label"], row["role"], tuple(row["pools"]), tuple(row["agents"]), row["password"],
        row["subject"], row["disabled"],
    )  # fmt: skip
    return Seen(account, row["version"], is_keeper(account) and row["keepers"] == 1, account_view(row))


async def accounts(database: Database, after: str) -> list[AccountView]:
    return [account_view(row) for row in await database.fetch(ACCOUNTS, after)]


def account_view(row: asyncpg.Record) -> AccountView:
    return AccountView(
        name=row["name"], label=row["label"], role=row["role"], pools=tuple(row["pools"]), agents=tuple(row["agents"]),
        disabled=row["disabled"], subject=row["subject"], has_password=bool(row["password"]), version=row["version"],
        created_at=instant(row["created_at"]), changed_at=instant(row["changed_at"]),
    )  # fmt: skip


async def see_setup(database: Database, code_hash: bytes) -> tuple[bool, bool]:
    """Whether an administrator can sign in already, and whether this code is open."""
    row = await database.fetch_one(SETUP, code_hash)
    return (bool(row["done"]), bool(row["open"])) if row else (False, False)


async def find_session(database: Database, id_hash: bytes) -> Session | None:
    """It counts as used now, to about a minute."""
    row = await database.fetch_one(SESSION, id_hash)
    if row is None:
        return None
    if row["stale"]:
        await database.execute(SEEN, id_hash)
    return Session(_session_view(row), account_view(row) if row["account"] else None)


async def sessions(database: Database, who: str, after: str) -> list[SessionView]:
    return [_session_view(row) for row in await database.fetch(SESSIONS, who, after)]


def _session_view(row: asyncpg.Record) -> SessionView:
    method: Method = row["method"]
    return SessionView(
        session_id=row["session_id"], who=row["who"], account=row["account"] or "",
        token_sha256=row["token_sha256"], method=method, source=row["source"], client=row["client"],
        opened_at=instant(row["opened_at"]), seen_at=instant(row["seen_at"]), ends_at=instant(row["ends_at"]),
    )  # fmt: skip


async def open_setup(database: Database, entry: Entry, code_hash: bytes, until: datetime) -> Written:
    return await _write(database, "kk_open_setup($1::kk_entry, $2, $3)", entry, code_hash, until)


async def set_up(database: Database, entry: Entry, code_hash: bytes, account: Account) -> Written:
    return await _write(database, "kk_set_up($1::kk_entry, $2, $3::kk_account)", entry, code_hash, account)


async def put(database: Database, entry: Entry, version: int, account: Account, *, same: bool) -> Written:
    call = "kk_put_account($1::kk_entry, $2, $3::kk_account, $4)"
    return await _write(database, call, entry, version, account, same)


async def remove(database: Database, entry: Entry, name: str, version: int) -> Written:
    return await _write(database, "kk_remove_account($1::kk_entry, $2, $3)", entry, name, version)


async def open_session(database: Database, entry: Entry, session_id: str, command: OpenSession) -> Written:
    row = (
        command.session_hash, session_id, who_of(command), command.account or None,
        command.token_sha256, command.method, command.source, command.client,
    )  # fmt: skip
    call = "kk_open_session($1::kk_entry, $2::kk_session, $3, $4, $5)"
    return await _write(database, call, entry, row, command.version, command.idle_s, command.ttl_s)


async def end_sessions(database: Database, entry: Entry, session_ids: tuple[str, ...]) -> Written:
    return await _write(database, "kk_end_sessions($1::kk_entry, $2)", entry, list(session_ids))


async def note(database: Database, entry: Entry) -> Written:
    return await _write(database, "kk_note($1::kk_entry)", entry)


async def _write(database: Database, call: str, *arguments: object) -> Written:
    return Written.of(await database.write(f"select * from {call}", *arguments))  # noqa: S608  # constants of ours
