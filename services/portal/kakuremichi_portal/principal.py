"""Who calls, and within which limits. Pure."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from kakuremichi.model.limits import Limits
from kakuremichi.wire.commands import NodeView, ServiceView, TokenView
from kakuremichi.wire.people import AccountRole, SessionView

AccessRole = Literal["read", "publish", "admin"]
SCOPES: tuple[AccessRole, ...] = ("read", "publish", "admin")  # each may what those before it may
GRANTS: dict[AccountRole, AccessRole] = {"viewer": "read", "publisher": "publish", "admin": "admin"}


@dataclass(frozen=True, slots=True)
class Scope(Limits):
    """The limits of a caller, held against what the registry answers."""

    def has_node(self, node: NodeView) -> bool:
        return self.has_placed(node.role, node.pool, node.node_id)

    def may_change(self, node: NodeView) -> bool:
        """Gateways are changed by whom no agent limits."""
        return self.has_node(node) and (node.role == "agent" or not self.agents)

    def has_service(self, service: ServiceView) -> bool:
        return self.has_pool(service.pool) and self.has_targets(tuple(target.agent for target in service.targets))

    def has_token(self, token: TokenView) -> bool:
        return self.has_pool(token.pool) and self.has_joining(token.role, token.node_id)


EVERYTHING = Scope()


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller: `read` looks, `publish` changes services too, `admin` everything, within `scope`."""

    name: str
    role: AccessRole
    scope: Scope = EVERYTHING
    account: str = ""  # "": an API token
    label: str = ""  # what the person is called
    expires_at: int = 0  # Unix seconds, of the token; 0: never

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
