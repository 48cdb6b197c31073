"""The one place where scopes are enforced: between every handler and the registry.

A caller with limits asks for things outside of them as if they did not exist: reads are filtered, writes answer 404,
and what this module does not know is refused. So a handler cannot forget about it, and a new one begins with nothing.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from kakuremichi.model.ids import NodeId
from kakuremichi.wire import commands
from kakuremichi.wire.identity import Role
from kakuremichi_portal.names import missing
from kakuremichi_portal.principal import Scope
from kakuremichi_portal.problems import ProblemError

Exchange = Callable[[commands.AnyCommand], Awaitable[object]]

# Routes whose handlers take what they tell from the registry only, or tell nothing of the fleet. Callers with limits
# find nothing at any other, so one that reads the portal's own memory is closed to them until it filters by itself.
SCOPED_OPERATIONS = frozenset({
    "listServices", "getService", "createService", "replaceService", "deleteService",
    "listGateways", "getGateway", "removeGateway", "revokeGateway", "rotateGateway", "releaseGateway",
    "listAgents", "getAgent", "removeAgent", "revokeAgent", "rotateAgent", "releaseAgent",
    "listTokens", "getToken", "createToken", "listEvents", "getEvent", "describe",
    "statusPage", "accountPage", "changePassword", "endSessionByForm", "signOut",
})  # fmt: skip

T = TypeVar("T")


def refuse_unscoped(operation: str, scope: Scope) -> None:
    if scope.limited and operation not in SCOPED_OPERATIONS:
        raise ProblemError(404, "not-found", "there is nothing at this address")


async def ask(scope: Scope, command: commands.AnyCommand, exchange: Exchange) -> object:
    """The answer to `command` as far as it lies within `scope`; :class:`ProblemError` 404 for what does not."""
    await _refuse_outside(scope, command, exchange)
    answer = await exchange(command)
    match answer:
        case commands.Nodes():
            return _kept_nodes(answer, scope)
        case commands.Services():
            return _kept(answer, scope.has_service)
        case commands.Tokens():
            return _kept(answer, scope.has_token)
        case commands.Events():
            items = [event for event in answer.items if await _has_event(scope, event, exchange)]
            return msgspec.structs.replace(answer, items=tuple(items))
        case commands.Problem(status=409):
            # Names are unique beyond a scope, and the registry's sentence says who has this one.
            detail = "conflict: what was asked for is taken or in use; by whom may lie outside your scope"
            return msgspec.structs.replace(answer, holders=(), detail=detail)
    return answer


def _kept_nodes(answer: commands.Nodes, scope: Scope) -> commands.Nodes:
    seqs = answer.updated_seqs
    if seqs is not msgspec.UNSET:
        seqs = tuple(seq for node, seq in zip(answer.items, seqs, strict=True) if scope.has_node(node))
    items = tuple(filter(scope.has_node, answer.items))
    return msgspec.structs.replace(answer, items=items, updated_seqs=seqs)


def _kept(answer: Any, inside: Callable[[Any], bool]) -> Any:
    return msgspec.structs.replace(answer, items=tuple(filter(inside, answer.items)))


async def _refuse_outside(scope: Scope, command: commands.AnyCommand, exchange: Exchange) -> None:
    match command:
        case commands.ListNodes() | commands.ListServices() | commands.ListTokens() | commands.ListEvents():
            return
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
    """What is about a node or service of the scope, as far as the fact or the node itself tells."""
    try:
        fact = msgspec.json.decode(event.fact, type=dict[str, Any])
    except msgspec.DecodeError:
        return False
    if "pool" in fact and not scope.has_pool(str(fact["pool"])):
        return False
    if "service_id" in fact:
        targets = tuple(str(target.get("agent")) for target in fact.get("targets", ()))
        return "pool" in fact and scope.has_targets(targets)
    if "node_id" not in fact:
        return False
    if "pool" in fact and "role" in fact:
        return fact["role"] == "gateway" or scope.has_agent(str(fact["node_id"]))
    name = NodeId(str(fact["node_id"]))
    nodes = [await _node("agent", name, exchange), await _node("gateway", name, exchange)]
    return any(node is not None and scope.has_node(node) for node in nodes)


def _expect(answer: object, kind: type[T]) -> T:
    """What a look-up brought; a refusal or anything else is passed on as its own problem."""
    if isinstance(answer, commands.Problem):
        raise ProblemError(answer.status, answer.code, answer.detail)
    if not isinstance(answer, kind):
        raise ProblemError(502, "registry-answer", f"the registry answered with {type(answer).__name__}")
    return answer
