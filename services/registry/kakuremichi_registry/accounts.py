"""What may become of accounts, sessions and the setup code. Pure."""

from dataclasses import dataclass
from typing import NamedTuple

from msgspec import UNSET

from kakuremichi.wire.facts import (
    AccountChanged,
    AccountCreated,
    ApiTokenCreated,
    ApiTokenRemoved,
    PersonSignedIn,
    PersonSignedOut,
    SessionsEnded,
)
from kakuremichi.wire.people import (
    AccountRole,
    AccountView,
    EndSessions,
    NoteApiToken,
    OpenSession,
    PutAccount,
    RemoveAccount,
    SessionView,
    SetUp,
)
from kakuremichi_registry.refusal import Refusal, conflict, invalid, not_found
from kakuremichi_registry.terms import ANY_SEQ, terms_of


class Account(NamedTuple):
    """As it is kept."""

    name: str
    label: str
    role: AccountRole
    pools: tuple[str, ...]
    agents: tuple[str, ...]
    password: str
    subject: str
    disabled: bool


class Seen(NamedTuple):
    account: Account
    version: int
    last_keeper: bool  # nobody else can sign in by password and mend everything
    view: AccountView


def is_keeper(account: Account) -> bool:
    """As kk_is_keeper."""
    whole = not account.pools and not account.agents
    return account.role == "admin" and whole and not account.disabled and not account.subject


def check_setup(*, done: bool) -> None:
    if done:
        raise conflict("set-up", "setup: there is an administrator already, who makes further accounts")


def set_up(command: SetUp, *, done: bool, is_open: bool) -> tuple[Account, AccountCreated]:
    """The first account; unknown, used and expired codes get one answer."""
    if done or not is_open:
        raise Refusal(403, "setup-refused", "code: is not known, was used, or is over; `kakuremichi up` makes another")
    account = Account(command.name, "", "admin", (), (), command.password, "", disabled=False)
    return account, _created(account)


@dataclass(frozen=True, slots=True)
class Put:
    """`version` 0: it is new. `same`: nothing but the label is different, so its sessions go on."""

    version: int
    account: Account
    fact: AccountCreated | AccountChanged
    same: bool = False


def put(command: PutAccount, seen: Seen | None) -> Put | None:
    """None: everything is so already."""
    wanted = _wanted(command, seen)
    if seen is None:
        if command.seen_version:
            raise not_found("unknown-account", f"account {command.name}: there is none of this name", field="name")
        return Put(0, wanted, _created(wanted))
    _check_match(command, seen)
    if command.create_only:
        raise conflict("exists", f"account {command.name}: exists", field="name", holders=(command.name,))
    if command.seen_version not in (0, seen.version):
        raise conflict("changed", f"account {command.name}: was changed by somebody else; look again", field="name")
    if seen.account.subject != wanted.subject:
        raise conflict("exists", f"account {command.name}: belongs to another person", field="name")
    if wanted == seen.account:
        return None
    if seen.last_keeper and not is_keeper(wanted):
        raise _last(command.name)
    fact = AccountChanged(
        account=wanted.name, label=wanted.label, role=wanted.role, pools=wanted.pools, agents=wanted.agents,
        subject=wanted.subject, disabled=wanted.disabled, password_changed=wanted.password != seen.account.password,
    )  # fmt: skip
    return Put(seen.version, wanted, fact, same=wanted._replace(label=seen.account.label) == seen.account)


def _check_match(command: PutAccount | RemoveAccount, seen: Seen) -> None:
    wanted = terms_of(command).if_match
    if wanted is not UNSET and not {ANY_SEQ, seen.version} & set(wanted):
        detail = f"account {command.name}: was changed by somebody else; look again"
        raise Refusal(412, "changed", detail, field="If-Match", current_seq=seen.version)


def _wanted(command: PutAccount, seen: Seen | None) -> Account:
    if command.subject and command.password is not UNSET:
        raise invalid("password", "password: an account of an OIDC provider has none here")
    password = command.password if command.password is not UNSET else seen.account.password if seen else ""
    if not password and not command.subject:
        raise invalid("password", f"account {command.name}: needs a password")
    return Account(
        command.name, command.label, command.role, tuple(sorted(set(command.pools))),
        tuple(sorted(set(command.agents))), password, command.subject, command.disabled,
    )  # fmt: skip


def _created(account: Account) -> AccountCreated:
    return AccountCreated(
        account=account.name, label=account.label, role=account.role, pools=account.pools, agents=account.agents,
        subject=account.subject, disabled=account.disabled,
    )  # fmt: skip


def remove(command: RemoveAccount, seen: Seen | None) -> int:
    """The version that goes."""
    if seen is None:
        raise not_found("unknown-account", f"account {command.name}: there is none of this name", field="name")
    _check_match(command, seen)
    if seen.last_keeper:
        raise _last(command.name)
    return seen.version


def _last(name: str) -> Refusal:
    detail = f"account {name}: is the last unlimited administrator's with a password; make another one first"
    return conflict("last-admin", detail, holders=(name,))


def sign_in(command: OpenSession, seen: Seen | None) -> PersonSignedIn:
    """The account has to be as it was when the portal looked at the password."""
    if bool(command.account) == bool(command.token_sha256):
        raise invalid("account", "account, token_sha256: one of them is needed")
    if command.account and (seen is None or seen.version != command.version or seen.account.disabled):
        raise Refusal(401, "signed-out", "account: was changed while you signed in; sign in again")
    return PersonSignedIn(
        who=who_of(command), session_id=session_id_of(command.session_hash),
        method=command.method, source=command.source,
    )  # fmt: skip


def who_of(command: OpenSession) -> str:
    """Accounts and tokens may have the same names; these are never the same."""
    return f"person/{command.account}" if command.account else command.token_name


def session_id_of(id_hash: bytes) -> str:
    return id_hash.hex()[:16]


def end(command: EndSessions, found: list[SessionView]) -> tuple[tuple[str, ...], PersonSignedOut | SessionsEnded]:
    """The sessions that are meant, and the fact."""
    wanted = command.session_id
    if wanted is UNSET and (command.signed_out or not command.who):
        raise invalid("session_id", "session_id: is needed, or an account whose sessions are all meant")
    ended = [each for each in found if wanted is UNSET or each.session_id == wanted]
    if not ended:
        raise not_found("unknown-session", "session: there is none of this name", field="session_id")
    if command.signed_out:
        return (ended[0].session_id,), PersonSignedOut(who=ended[0].who, session_id=ended[0].session_id)
    names = tuple(each.session_id for each in ended)
    return names, SessionsEnded(sessions=tuple((each.who, each.session_id) for each in ended))


def noted(command: NoteApiToken) -> ApiTokenCreated | ApiTokenRemoved:
    if command.act == "removed":
        return ApiTokenRemoved(name=command.name)
    return ApiTokenCreated(
        name=command.name, scope=command.scope, pools=command.pools, agents=command.agents,
        expires_at=command.expires_at,
    )  # fmt: skip
