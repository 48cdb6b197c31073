"""Accounts and sessions as the portal's handlers ask for them."""

import re
from collections.abc import AsyncIterator

from kakuremichi.wire import people
from kakuremichi.wire.commands import Written
from kakuremichi_portal.names import missing
from kakuremichi_portal.principal import Principal
from kakuremichi_portal.registry import Registry

_SESSION_ID = re.compile(r"\A[0-9a-f]{16}\Z")


async def accounts(registry: Registry, actor: str) -> tuple[people.AccountView, ...]:
    async def pages() -> AsyncIterator[people.Accounts]:
        command = people.ListAccounts(actor=actor)
        while True:
            page = await registry.person(command, people.Accounts)
            yield page
            if page.next_after in ("", command.after):
                return
            command = people.ListAccounts(actor=actor, after=page.next_after)

    return tuple([view async for page in pages() for view in page.items])


async def sessions_for(registry: Registry, caller: Principal) -> tuple[people.SessionView, ...]:
    """Everybody's for an administrator without limits, else the caller's own."""
    who = "" if caller.mends_everything else caller.actor
    found: list[people.SessionView] = []
    after = ""
    while True:
        page = await registry.person(people.ListSessions(actor=caller.actor, who=who, after=after), people.Sessions)
        found += page.items
        if page.next_after in ("", after):
            return tuple(found)
        after = page.next_after


async def end_session(registry: Registry, caller: Principal, session_id: str) -> None:
    """404 for one that is not there, or not the caller's to end."""
    if not _SESSION_ID.match(session_id):
        raise missing("session", "")
    who = "" if caller.mends_everything else caller.actor
    await registry.person(people.EndSessions(actor=caller.actor, who=who, session_id=session_id), Written)
