"""Who calls, and within which limits. Pure."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from kakuremichi.wire.commands import NodeView, ServiceView, TokenView
from kakuremichi.wire.people import AccountRole, SessionView

AccessRole = Literal["read", "publish", "admin"]
SCOPES: tuple[AccessRole, ...] = ("read", "publish", "admin")  # each may what those before it may
GRANTS: dict[AccountRole, AccessRole] = {"viewer": "read", "publisher": "publish", "admin": "admin"}


@dataclass(frozen=True, slots=True)
class Scope:
    """The pools and agents that a role is granted for; empty is all of them. Outside of it nothing exists."""

    pools: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()

    @property
    def limited(self) -> bool:
        return bool(self.pools or self.agents)

    def has_pool(self, pool: str) -> bool:
        return not self.pools or pool in self.pools

    def has_agent(self, agent: str) -> bool:
        return not self.agents or agent in self.agents

    def has_node(self, node: NodeView) -> bool:
        """Gateways belong to their pool: they are seen by whoever sees it, and changed by whom no agent limits."""
        return self.has_pool(node.pool) and (node.role == "gateway" or self.has_agent(node.node_id))

    def may_change(self, node: NodeView) -> bool:
        return self.has_node(node) and (node.role == "agent" or not self.agents)

    def has_targets(self, agents: tuple[str, ...]) -> bool:
        """All of them, and at least one where agents are limited: else it would be somebody else's service too."""
        return all(map(self.has_agent, agents)) and (bool(agents) or not self.agents)

    def has_service(self, service: ServiceView) -> bool:
        return self.has_pool(service.pool) and self.has_targets(tuple(target.agent for target in service.targets))

    def has_token(self, token: TokenView) -> bool:
        return self.has_pool(token.pool) and self.has_joining(token.role, token.node_id)

    def has_joining(self, role: str, node_id: str) -> bool:
        return not self.agents or (role == "agent" and node_id in self.agents)


EVERYTHING = Scope()


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller: `read` looks, `publish` changes services too, `admin` everything, within `scope`."""

    name: str
    role: AccessRole
    scope: Scope = EVERYTHING
    account: str = ""  # "": an API token
    label: str = ""  # what the person is called

    @property
    def actor(self) -> str:
        """As the log has it: people's names and tokens' names never mean each other."""
        return f"person/{self.account}" if self.account else self.name

    @property
    def mends_everything(self) -> bool:
        """An administrator without limits."""
        return self.role == "admin" and not self.scope.limited


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A session and whose it is. `form_key` is repeated by its forms: one made elsewhere does not have it."""

    view: SessionView
    principal: Principal
    form_key: str


_scope: ContextVar[Scope] = ContextVar("scope_of_caller", default=EVERYTHING)


def scope_of_caller() -> Scope:
    """Of the request that is being answered; everything where there is none."""
    return _scope.get()


@contextmanager
def within(scope: Scope) -> Iterator[None]:
    """What is asked of the registry in here is asked on behalf of a caller with this scope."""
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)
