"""The one place where scopes are enforced: between every handler and the registry.

A caller with limits asks for things outside of them as if they did not exist: reads are filtered, writes answer 404,
and what this module does not know is refused. So a handler cannot forget about it, and a new one begins with nothing.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from kakuremichi.model.ids import NodeId
from kakuremichi.wire import commands, history
from kakuremichi.wire.identity import Role
from kakuremichi_portal.names import missing
from kakuremichi_portal.principal import Scope
from kakuremichi_portal.problems import ProblemError

Request = commands.AnyCommand | history.AnyHistoryRequest
Exchange = Callable[[Request], Awaitable[object]]

EVENTS_PAGE = 200
MOST_LOOKED_AT = 2000  # events, for the newest that somebody may know of

# Routes whose handlers take what they tell from the registry only, filter by themselves, or tell nothing of the fleet.
# Callers with limits find nothing at any other, so one that reads the portal's own memory begins closed to them.
SCOPED_OPERATIONS = frozenset({
    "listServices", "getService", "createService", "replaceService", "deleteService",
    "listGateways", "getGateway", "removeGateway", "revokeGateway", "rotateGateway", "releaseGateway",
    "listAgents", "getAgent", "removeAgent", "revokeAgent", "rotateAgent", "releaseAgent",
    "listTokens", "getToken", "createToken", "listEvents", "getEvent", "describe", "watch", "getState", "getDiff",
    "getPropagation", "getFleetPropagation", "getTrace", "listSessions", "endSession",
    "getServiceCounters", "listCounters",
    "statusPage", "accountPage", "changePassword", "endSessionByForm", "signOut",
})  # fmt: skip

NARROWED = (
    commands.ListNodes, commands.ListServices, commands.ListTokens, commands.ListEvents, commands.ListPositions,
    history.ReadState, history.ReadDiff,
)  # fmt: skip
"""Reads whose answers are narrowed; other kinds are refused."""

T = TypeVar("T")


def refuse_unscoped(operation: str, scope: Scope) -> None:
    if scope.limited and operation not in SCOPED_OPERATIONS:
        raise ProblemError(404, "not-found", "there is nothing at this address")


async def ask(  # noqa: PLR0911  # one line for each kind of answer
    scope: Scope, command: Request, exchange: Exchange
) -> object:
    """The answer to `command` as far as it lies within `scope`; :class:`ProblemError` 404 for what does not."""
    await _refuse_outside(scope, command, exchange)
    if isinstance(command, history.ReadState | history.ReadDiff):
        # Which rows belong together is known to who has the whole state.
        command = msgspec.structs.replace(command, within=history.Within(pools=scope.pools, agents=scope.agents))
    answer = await exchange(command)
    match answer:
        case commands.Nodes():
            return _kept_nodes(answer, scope)
        case commands.Services():
            return _kept(answer, scope.has_service)
        case commands.Tokens():
            return _kept(answer, scope.has_token)
        case commands.Events():
            seen = await _seen(scope, answer.items, exchange)
            return _kept(answer, lambda event: event.seq in seen)
        case commands.Positions():
            seen = await _seen(scope, await _events_of(answer, exchange), exchange)
            return _kept(answer, lambda event: event.seq in seen)
        case commands.Problem(status=409):
            # Names are unique beyond a scope, and the registry's sentence says who has this one.
            detail = "conflict: what was asked for is taken or in use; by whom may lie outside your scope"
            return msgspec.structs.replace(answer, holders=(), detail=detail)
    return answer


def _kept_nodes(answer: commands.Nodes, scope: Scope) -> commands.Nodes:
    seqs = answer.updated_seqs
    if seqs is not msgspec.UNSET:
        seqs = tuple(seq for node, seq in zip(answer.items, seqs, strict=True) if scope.has_node(node))
    items = tuple(_shown_node(node, scope) for node in answer.items if scope.has_node(node))
    return msgspec.structs.replace(answer, items=items, updated_seqs=seqs)


def _shown_node(node: commands.NodeView, scope: Scope) -> commands.NodeView:
    """What a gateway could not apply may be about any service of its pool: each service says what is about itself."""
    return msgspec.structs.replace(node, errors=(), warnings=()) if tells_of_others(scope, node.role) else node


def tells_of_others(scope: Scope, role: str) -> bool:
    """Whether what a node of this role says of itself may be about what lies outside."""
    return bool(scope.agents) and role == "gateway"


async def _seen(scope: Scope, events: Iterable[commands.EventView], exchange: Exchange) -> set[int]:
    return {event.seq for event in events if await _has_event(scope, event, exchange)}


async def _events_of(positions: commands.Positions, exchange: Exchange) -> list[commands.EventView]:
    """The events themselves: positions do not say what they are about."""
    seqs = {event.seq for event in positions.items}
    found: list[commands.EventView] = []
    after, until = (min(seqs) - 1, max(seqs)) if seqs else (0, 0)
    while after < until and len(found) < MOST_LOOKED_AT:
        query = commands.ListEvents(actor="portal", after=after, limit=min(EVENTS_PAGE, until - after))
        page = _expect(await exchange(query), commands.Events)
        if not page.items:
            break
        found += page.items
        after = page.items[-1].seq
    return [event for event in found if event.seq in seqs]


def _kept(answer: Any, inside: Callable[[Any], bool]) -> Any:
    return msgspec.structs.replace(answer, items=tuple(filter(inside, answer.items)))


async def _refuse_outside(scope: Scope, command: Request, exchange: Exchange) -> None:
    if isinstance(command, NARROWED):
        return
    match command:
        case commands.PublishService():
            await _refuse_publish(scope, command, exchange)
        case commands.UnpublishService():
            if not await _has_service(scope, command.service_id, exchange):
                raise missing("service", command.service_id)
        case commands.RemoveNode() | commands.RevokeNode() | commands.RotateNode() | commands.ReleaseNode():
            node = await _node(command.role, command.node_id, exchange)
            if node is None or not scope.may_change(node):
                raise missing(command.role, command.node_id)
        case commands.CreateToken():
            if not scope.has_pool(command.pool):
                raise missing("pool", command.pool)
            if not scope.has_joining(command.role, command.node_id):
                raise missing(command.role, command.node_id)
        case _:
            raise ProblemError(404, "not-found", "there is nothing at this address")


async def _refuse_publish(scope: Scope, command: commands.PublishService, exchange: Exchange) -> None:
    if not scope.has_pool(command.pool):
        raise missing("pool", command.pool)
    for target in command.targets:
        node = await _node("agent", target.agent, exchange)
        if node is None or not scope.has_node(node):
            raise missing("agent", target.agent)
    if not scope.has_targets(tuple(target.agent for target in command.targets)):
        raise ProblemError(422, "invalid", "targets: with your scope one of your agents is needed", field="targets")
    # Who may only create one learns from the registry that the name is taken.
    if not command.create_only and await _has_service(scope, command.service_id, exchange) is False:
        raise missing("service", command.service_id)


async def _has_service(scope: Scope, name: str, exchange: Exchange) -> bool | None:
    """None: there is no such service."""
    answer = await exchange(commands.ListServices(actor="portal", service_id=name))
    for service in _expect(answer, commands.Services).items:
        if service.service_id == name:
            return scope.has_service(service)
    return None


async def _node(role: Role, name: str, exchange: Exchange) -> commands.NodeView | None:
    answer = await exchange(commands.ListNodes(actor="portal", role=role, node_id=name))
    return next((node for node in _expect(answer, commands.Nodes).items if node.node_id == name), None)


async def _has_event(scope: Scope, event: commands.EventView, exchange: Exchange) -> bool:
    fact = fact_of(event.fact)
    name = node_to_look_up(fact)
    if not name:
        return has_fact(scope, fact, has_node=False)
    nodes = [await _node(role, NodeId(name), exchange) for role in ("agent", "gateway")]
    return has_fact(scope, fact, has_node=any(node is not None and scope.has_node(node) for node in nodes))


def fact_of(text: str) -> dict[str, Any]:
    """The fact of an event; {} if it is not one, which is about nobody."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError:
        return {}


def node_to_look_up(fact: Mapping[str, Any]) -> str:
    """The node that a fact is about without saying where it is; "" if it says so, or is not about one."""
    says_where = "pool" in fact and "role" in fact
    return "" if "service_id" in fact or says_where else str(fact.get("node_id", ""))


def has_fact(scope: Scope, fact: Mapping[str, Any], *, has_node: bool) -> bool:
    """Whether it is about a node or service of the scope; `has_node`: the one that :func:`node_to_look_up` names is."""
    if "pool" in fact and not scope.has_pool(str(fact["pool"])):
        return False
    if "service_id" in fact:
        targets = tuple(str(target.get("agent")) for target in fact.get("targets", ()))
        return "pool" in fact and scope.has_targets(targets)
    if "node_id" not in fact:
        return False
    if "pool" in fact and "role" in fact:
        return scope.has_placed(str(fact["role"]), str(fact["pool"]), str(fact["node_id"]))
    return has_node


def _expect(answer: object, kind: type[T]) -> T:
    """What a look-up brought; a refusal or anything else is passed on as its own problem."""
    if isinstance(answer, commands.Problem):
        raise ProblemError(answer.status, answer.code, answer.detail)
    if not isinstance(answer, kind):
        raise ProblemError(502, "registry-answer", f"the registry answered with {type(answer).__name__}")
    return answer
