"""The registry as the portal sees it: one command, one answer."""

from collections.abc import AsyncIterator
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from kakuremichi.bus.port import Bus, BusError, BusTimeoutError, BusUnavailableError
from kakuremichi.model.ids import NodeId, ServiceId
from kakuremichi.wire import commands, history, people, subjects
from kakuremichi.wire.codec import WireError, decode_any, encode
from kakuremichi.wire.identity import Role
from kakuremichi_portal import scoping
from kakuremichi_portal.conditions import seq_tag
from kakuremichi_portal.principal import scope_of_caller
from kakuremichi_portal.problems import ProblemError

TIMEOUT_S = 5.0
R = TypeVar("R", bound=commands.Result)


Listing = commands.ListNodes | commands.ListServices | commands.ListTokens
Page = TypeVar("Page", commands.Nodes, commands.Services, commands.Tokens)


class Registry:
    def __init__(self, bus: Bus, *, timeout_s: float = TIMEOUT_S) -> None:
        self._bus, self._timeout_s = bus, timeout_s

    async def ask(self, command: commands.AnyCommand, answer: type[R], *, timeout_s: float | None = None) -> R:
        """The registry's answer to `command`; its refusal, or that there is none, as a :class:`ProblemError`."""
        return await self._ask(subjects.COMMAND, command, commands.AnyResult, answer, timeout_s)

    async def _ask(self, subject: str, request: Any, kinds: Any, answer: type[R], timeout_s: float | None) -> R:
        async def exchange(inner: object) -> object:
            return await self._exchange(subject, inner, kinds, timeout_s)

        # Who may do what with accounts and sessions is a question of the route: they are of no pool.
        limited = scope_of_caller().limited and subject != subjects.PEOPLE
        result = await (scoping.ask(scope_of_caller(), request, exchange) if limited else exchange(request))
        if isinstance(result, commands.Problem):
            raise _refused(result)
        if not isinstance(result, answer):
            raise ProblemError(502, "registry-answer", f"the registry answered with {type(result).__name__}")
        return result

    async def _exchange(self, subject: str, request: object, kinds: Any, timeout_s: float | None) -> object:
        try:
            message = await self._bus.request(subject, encode(request), timeout_s=timeout_s or self._timeout_s)
            result: object = decode_any(message.data, kinds, name="registry's answer")
        except BusTimeoutError as error:
            detail = "the registry did not answer in time; whether it acted is unknown, ask again with the same key"
            raise ProblemError(504, "registry-timeout", detail) from error
        except BusUnavailableError as error:
            detail = "the portal has no connection to the registry; nothing was sent"
            raise ProblemError(503, "registry-unavailable", detail, headers={"Retry-After": "1"}) from error
        except (BusError, WireError) as error:
            raise ProblemError(502, "registry-answer", f"the registry was not understood: {error}") from error
        return result

    async def person(self, request: people.AnyPeopleRequest, answer: type[R]) -> R:
        """The same for what is asked about accounts and sessions."""
        return await self._ask(subjects.PEOPLE, request, people.AnyPeopleResult, answer, None)

    async def past(self, request: history.AnyHistoryRequest, answer: type[R], *, timeout_s: float | None = None) -> R:
        """The same for what is asked about the past."""
        return await self._ask(subjects.HISTORY, request, history.AnyHistoryResult, answer, timeout_s)

    async def redeem(self, command: commands.EnrolNode) -> commands.Enrolled | commands.EnrolmentWaiting:
        """The only command with two answers: the second is that offline trust keys have yet to sign."""
        answer = await self.ask(command, commands.Result)
        if not isinstance(answer, commands.Enrolled | commands.EnrolmentWaiting):
            raise ProblemError(502, "registry-answer", f"the registry answered with {type(answer).__name__}")
        return answer

    async def nodes(self, actor: str, role: Role, *, timeout_s: float | None = None) -> tuple[commands.NodeView, ...]:
        pages = self._pages(commands.ListNodes(actor=actor, role=role), commands.Nodes, timeout_s)
        return tuple([view async for page in pages for view in page.items])

    async def node(self, actor: str, role: Role, name: NodeId) -> commands.NodeView | None:
        page = await self.ask(commands.ListNodes(actor=actor, role=role, node_id=name), commands.Nodes)
        return next((view for view in page.items if view.node_id == name), None)

    async def services(self, actor: str) -> tuple[commands.ServiceView, ...]:
        pages = self._pages(commands.ListServices(actor=actor), commands.Services)
        return tuple([view async for page in pages for view in page.items])

    async def service(self, actor: str, name: ServiceId) -> commands.ServiceView | None:
        page = await self.ask(commands.ListServices(actor=actor, service_id=name), commands.Services)
        return next((view for view in page.items if view.service_id == name), None)

    async def tokens(self, actor: str) -> tuple[commands.TokenView, ...]:
        pages = self._pages(commands.ListTokens(actor=actor), commands.Tokens)
        return tuple([view async for page in pages for view in page.items])

    async def listed(self, command: Listing, answer: type[Page], limit: int | None) -> Page:
        """At most `limit` items of a list, or all, as one page."""
        pages, count = [], 0
        while True:
            left = UNSET if limit is None else limit - count
            page = await self.ask(msgspec.structs.replace(command, limit=left), answer)
            pages.append(page)
            count += len(page.items)
            if not page.next_after or page.next_after == command.after or count == limit:
                return _joined(pages)
            command = msgspec.structs.replace(command, after=page.next_after)

    async def _pages(self, command: Listing, answer: type[Page], timeout_s: float | None = None) -> AsyncIterator[Page]:
        while True:
            page = await self.ask(command, answer, timeout_s=timeout_s)
            yield page
            # A cursor that does not move would be followed for ever.
            if not page.next_after or page.next_after == command.after:
                return
            command = msgspec.structs.replace(command, after=page.next_after)


def _joined(pages: list[Page]) -> Page:
    changes: dict[str, object] = {"items": tuple(item for page in pages for item in page.items)}
    if isinstance(pages[0], commands.Nodes):
        changes["updated_seqs"] = tuple(seq for page in pages for seq in seqs_of(page))
    return msgspec.structs.replace(pages[-1], **changes)


def seqs_of(page: object) -> tuple[int, ...]:
    """Of nodes, the event of each one's last change; an older registry does not tell it."""
    if not isinstance(page, commands.Nodes):
        return ()
    return (0,) * len(page.items) if page.updated_seqs is UNSET else page.updated_seqs


def _refused(problem: commands.Problem) -> ProblemError:
    current = problem.current_seq
    headers = {} if current is UNSET or not current else {"ETag": seq_tag(current)}
    return ProblemError(
        problem.status, problem.code, problem.detail, field=problem.field, holders=problem.holders, headers=headers
    )
