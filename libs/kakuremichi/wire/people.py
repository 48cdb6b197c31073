"""What the portal asks of the registry about people: their accounts, their sessions, and the acts that are logged.

Passwords and cookies never come here: the portal sends an Argon2id hash of the one and SHA-256 of the other.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from kakuremichi.model.ids import TOKEN_PATTERN, NodeIdField, PoolNameField
from kakuremichi.wire.commands import Command, Plan, Problem, Result, Text, Write, Written
from kakuremichi.wire.identity import Hash

AccountRole = Literal["viewer", "publisher", "admin"]
Method = Literal["password", "oidc", "api-token"]
AccountName = Annotated[str, Meta(pattern=TOKEN_PATTERN)]
PasswordHash = Annotated[str, Meta(pattern=r"\A\$argon2id\$[!-~]{20,300}\Z")]
SessionName = Annotated[str, Meta(pattern=r"\A[0-9a-f]{16}\Z")]
Pools = Annotated[tuple[PoolNameField, ...], Meta(max_length=64)]
Agents = Annotated[tuple[NodeIdField, ...], Meta(max_length=256)]
Label = Annotated[str, Meta(max_length=128)]


class OpenSetup(Write, frozen=True, kw_only=True, tag="open-setup.v1"):
    """Let one person make the first account; refused once there is one."""

    code_hash: Hash  # SHA-256
    ttl_s: Annotated[int, Meta(ge=1, le=3600)] = 3600


class SetUp(Command, frozen=True, kw_only=True, tag="set-up.v1"):
    """Use that code up: the first account, an administrator's."""

    code_hash: Hash
    name: AccountName
    password: PasswordHash


class PutAccount(Write, frozen=True, kw_only=True, tag="put-account.v1"):
    """Create, or replace whole. `pools` and `agents` limit the role, empty is all of them.

    Its sessions end if anything but `label` becomes different. `if_match` of the terms is its version here and when it
    is removed.
    """

    name: AccountName
    label: Label = ""
    role: AccountRole
    pools: Pools = ()
    agents: Agents = ()
    disabled: bool = False
    password: PasswordHash | UnsetType = UNSET  # unset: as it is; a new account then has none
    subject: Text = ""  # of an OIDC provider: issuer, space, `sub`
    create_only: bool = False
    seen_version: Annotated[int, Meta(ge=0)] = 0  # refused if it is another one by now; 0: whichever


class RemoveAccount(Write, frozen=True, kw_only=True, tag="remove-account.v1"):
    name: AccountName


class FindAccount(Command, frozen=True, kw_only=True, tag="find-account.v1"):
    name: Text


class ListAccounts(Command, frozen=True, kw_only=True, tag="list-accounts.v1"):
    after: Text = ""


class OpenSession(Command, frozen=True, kw_only=True, tag="open-session.v1"):
    """Of an account as it was at `version`, or of the API token with `token_sha256`."""

    session_hash: Hash  # SHA-256 of the cookie's value
    account: Annotated[str, Meta(pattern=r"\A(?:[a-z0-9][a-z0-9-]{0,30})?\Z")] = ""
    version: Annotated[int, Meta(ge=0)] = 0
    token_sha256: Annotated[str, Meta(pattern=r"\A(?:[0-9a-f]{64})?\Z")] = ""
    token_name: Text = ""
    method: Method
    source: Text  # the address that the request came from
    client: Label = ""  # what the browser calls itself
    idle_s: Annotated[int, Meta(ge=60, le=604800)]
    ttl_s: Annotated[int, Meta(ge=60, le=2592000)]


class FindSession(Command, frozen=True, kw_only=True, tag="find-session.v1"):
    session_hash: Hash


class EndSessions(Write, frozen=True, kw_only=True, tag="end-sessions.v1"):
    """The sessions of an account or token, or one of them; `signed_out` if it is the person's own doing."""

    who: Text = ""  # person/ACCOUNT, or the name of an API token; "": anybody
    session_id: SessionName | UnsetType = UNSET
    signed_out: bool = False


class ListSessions(Command, frozen=True, kw_only=True, tag="list-sessions.v1"):
    who: Text = ""  # "": everybody
    after: Text = ""


class NoteFailure(Command, frozen=True, kw_only=True, tag="note-failure.v1"):
    """Somebody was not let in. It is kept in the access log, not in the log of events."""

    code: Text
    detail: Text


class NoteApiToken(Write, frozen=True, kw_only=True, tag="note-api-token.v1"):
    """A token of the API was created or removed; the portal keeps them."""

    name: AccountName
    act: Literal["created", "removed"]
    scope: Literal["read", "publish", "admin"]
    pools: Pools = ()
    agents: Agents = ()
    expires_at: Text = ""


AnyPeopleRequest = (
    OpenSetup
    | SetUp
    | PutAccount
    | RemoveAccount
    | FindAccount
    | ListAccounts
    | OpenSession
    | FindSession
    | EndSessions
    | ListSessions
    | NoteFailure
    | NoteApiToken
)


class AccountView(Struct, frozen=True, kw_only=True):
    name: str
    label: str
    role: AccountRole
    pools: tuple[str, ...]
    agents: tuple[str, ...]
    disabled: bool
    subject: str
    has_password: bool
    version: int  # grows whenever its sessions end
    created_at: str  # RFC 3339
    changed_at: str


class SessionView(Struct, frozen=True, kw_only=True):
    session_id: str  # names it, opens nothing
    who: str  # person/ACCOUNT, or the name of an API token
    account: str  # "": by an API token
    token_sha256: str
    method: Method
    source: str
    client: str
    opened_at: str
    seen_at: str  # to about a minute
    ends_at: str


class AccountFound(Result, frozen=True, kw_only=True, tag="account-found.v1"):
    account: AccountView | None
    password: str = ""  # Argon2id; "" if there is none


class Accounts(Result, frozen=True, kw_only=True, tag="accounts.v1"):
    items: tuple[AccountView, ...]
    next_after: str = ""


class SessionFound(Result, frozen=True, kw_only=True, tag="session-found.v1"):
    """`session` is None if it is over; `account` is None if it is an API token's."""

    session: SessionView | None
    account: AccountView | None = None


class Sessions(Result, frozen=True, kw_only=True, tag="sessions.v1"):
    items: tuple[SessionView, ...]
    next_after: str = ""


class Noted(Result, frozen=True, kw_only=True, tag="noted.v1"):
    """It is in the access log, or soon will be."""


AnyPeopleResult = Written | Plan | AccountFound | Accounts | SessionFound | Sessions | Noted | Problem
