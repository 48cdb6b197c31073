"""A route as data: the server and the OpenAPI document are both built from it, so neither has what the other lacks."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

import msgspec
from aiohttp import web
from msgspec import Struct

from kakuremichi_portal.principal import Principal, SignedIn
from kakuremichi_portal.problems import ProblemError

API = "/api/v1"


class Access(Enum):
    OPEN = auto()  # no caller is known
    READ = auto()  # a bearer token, or the session of a browser
    WRITE = auto()  # one that may publish
    ADMIN = auto()  # one that may decide who is in
    SESSION = auto()  # a page: without a session the sign-in form is next


@dataclass(frozen=True, slots=True)
class Query:
    name: str
    summary: str
    schema: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Call:
    """One request on its way: who calls, when it came (monotonic seconds), and in which trace."""

    request: web.Request
    arrived_s: float
    trace_id: str
    principal: Principal | None = None
    signed_in: SignedIn | None = None  # a browser's session, if that is how the caller is known

    @property
    def caller(self) -> Principal:
        """Of any route that is not open."""
        if self.principal is None:
            raise ProblemError(401, "unauthenticated", "authorization: is needed")
        return self.principal

    @property
    def session(self) -> SignedIn:
        """Of a page, which is never reached without one."""
        if self.signed_in is None:
            raise ProblemError(401, "unauthenticated", "session: sign in first")
        return self.signed_in

    @property
    def actor(self) -> str:
        return self.principal.actor if self.principal else "nobody"

    @property
    def name(self) -> str:
        """The resource that the path names."""
        return self.request.match_info["name"]

    @property
    def source(self) -> str:
        return self.request.remote or "unknown"

    @property
    def idempotency_key(self) -> str:
        keys = self.request.headers.getall("Idempotency-Key", [""])
        if len(keys) > 1 or len(keys[0]) > 128 or not (keys[0].isascii() and (keys[0] + "x").isprintable()):
            raise ProblemError(
                400, "invalid", "idempotency-key: once, at most 128 printable ASCII characters", field="Idempotency-Key"
            )
        return keys[0]


Answer = type[Struct] | tuple[type[Struct], ...] | str  # a struct is JSON, a tuple one of them, a str a media type
Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    operation: str
    summary: str
    access: Access
    handler: Handler
    answers: Mapping[int, Answer]
    body: type[Struct] | str | None = None
    query: tuple[Query, ...] = ()
    refusals: tuple[int, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)  # request headers and what they are for


WAIT_QUERY = (
    Query("wait", "`applied`: answer when the nodes concerned have applied the change.", {"enum": ["applied"]}),
    Query(
        "timeout",
        "Longest wait in seconds; then the answer is 202.",
        {"type": "number", "exclusiveMinimum": 0, "maximum": 60, "default": 5},
    ),
)
DRY_RUN = Query(
    "dry_run",
    "`1`: refused by the same rules as the write, and the answer is the plan; nothing is written.",
    {"enum": ["1"]},
)
IDEMPOTENCY_HEADER = {"Idempotency-Key": "The same key with the same body is answered as before and done once."}


def json_response(body: Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json", headers=headers)
