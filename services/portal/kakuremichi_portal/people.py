"""Accounts and sessions as the portal's handlers ask for them."""

import re
from collections.abc import AsyncIterator

from aiohttp import web
from msgspec import UNSET, UnsetType

from kakuremichi.wire import people
from kakuremichi.wire.commands import Terms, Written
from kakuremichi_portal.names import missing
from kakuremichi_portal.principal import Principal
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.writing import told_of_person

_SESSION_ID = re.compile(r"\A[0-9a-f]{16}\Z")


async def accounts(registry: Registry, actor: str, after: str = "") -> AsyncIterator[people.AccountView]:
    """By name."""
    while True:
        page = await registry.person(people.ListAccounts(actor=actor, after=after), people.Accounts)
        for view in page.items:
            yield view
        if page.next_after in ("", after):
            return
        after = page.next_after


async def sessions_for(registry: Registry, caller: Principal, after: str = "") -> AsyncIterator[people.SessionView]:
    """Everybody's for an administrator without limits, else the caller's own; by id."""
    who = "" if caller.mends_everything else caller.actor
    while True:
        page = await registry.person(people.ListSessions(actor=caller.actor, who=who, after=after), people.Sessions)
        for view in page.items:
            yield view
        if page.next_after in ("", after):
            return
        after = page.next_after


async def end_session(
    registry: Registry, caller: Principal, session_id: str, terms: Terms | UnsetType = UNSET
) -> Written | web.Response:
    """404 for one that is not there, or not the caller's to end."""
    if not _SESSION_ID.match(session_id):
        raise missing("session", "")
    who = "" if caller.mends_everything else caller.actor
    command = people.EndSessions(actor=caller.actor, who=who, session_id=session_id, terms=terms)
    return await told_of_person(registry, command, session_id)
