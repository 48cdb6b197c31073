"""Accounts as the API and the page change them: the same checks, the same requests to the registry."""

from typing import Annotated

from aiohttp import web
from msgspec import UNSET, Meta, Struct

from kakuremichi.wire import people
from kakuremichi_portal import writing
from kakuremichi_portal.names import missing
from kakuremichi_portal.passwords import Passwords, check_new
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import Call


class AccountIn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str | None, Meta(description="Needed to create; with PUT the path names it.")] = None
    label: Annotated[people.Label, Meta(description="What people call whoever has it.")] = ""
    role: Annotated[people.AccountRole, Meta(description="`viewer` reads, `publisher` changes services, `admin` all.")]
    pools: Annotated[people.Pools, Meta(description="Only these; empty: all.")] = ()
    agents: Annotated[people.Agents, Meta(description="Only these; empty: all.")] = ()
    disabled: bool = False
    password: Annotated[str, Meta(max_length=256, description="12 characters or more. Without: it stays.")] = ""


class AccountWriting:
    """What is written is answered with None, a dry run with its plan."""

    def __init__(self, registry: Registry, passwords: Passwords) -> None:
        self._registry, self._passwords = registry, passwords

    async def existing(self, call: Call, name: str) -> people.AccountView:
        found = await self._registry.person(people.FindAccount(actor=call.actor, name=name), people.AccountFound)
        if found.account is None:
            raise missing("account", name)
        return found.account

    async def put(
        self, call: Call, name: str, given: AccountIn, *, subject: str = "", version: int = 0, create_only: bool = False
    ) -> web.Response | None:
        """`version` is refused if it is another one by now; 0: whichever."""
        if given.password:
            check_new(given.password, name)
        command = people.PutAccount(
            actor=call.actor, name=name, label=given.label, role=given.role, pools=given.pools, agents=given.agents,
            disabled=given.disabled, subject=subject, create_only=create_only, seen_version=version,
            password=await self._passwords.hash(given.password) if given.password else UNSET,
            terms=writing.dry_run_of(call, seen=version),
        )  # fmt: skip
        written = await writing.told_of_person(self._registry, command, name)
        return written if isinstance(written, web.Response) else None

    async def remove(self, call: Call, seen: people.AccountView) -> web.Response | None:
        command = people.RemoveAccount(
            actor=call.actor, name=seen.name, terms=writing.dry_run_of(call, seen=seen.version)
        )  # fmt: skip
        removed = await writing.told_of_person(self._registry, command, seen.name)
        return removed if isinstance(removed, web.Response) else None
