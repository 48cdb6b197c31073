"""/api/v1/tokens: join tokens. The secret is made here, shown once and known to the registry by its hash only."""

import secrets
from dataclasses import dataclass

from aiohttp import web

from kakuremichi.wire import commands
from kakuremichi.wire.enrolment import SECRET_BYTES, JoinToken, hash_of, join_token_text
from kakuremichi_portal import views, writing
from kakuremichi_portal.decoding import read_body
from kakuremichi_portal.listing import PAGE_QUERY, filters_of, of_name, one_of, page_of
from kakuremichi_portal.names import missing
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import API, DRY_RUN, Access, Call, Route, json_response
from kakuremichi_portal.shapes import Plan, Token, TokenCreated, TokenIn, Tokens

FILTERS = (of_name("pool", "Of this pool."), one_of("state", "In this state.", "open", "used", "expired"))
PATH = f"{API}/tokens"
ONE = f"{PATH}/{{name}}"


@dataclass(frozen=True, slots=True)
class JoinAnchor:
    """What a join token says besides its secret: where the portal is, and whom a node is to believe."""

    url: str
    ca: bytes  # SHA-256 of the CA certificate; empty while there is none
    trust: bytes  # SHA-256 of the trust set's signed body


class TokenRoutes:
    def __init__(self, registry: Registry, anchor: JoinAnchor) -> None:
        self._registry, self._anchor = registry, anchor

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", PATH, "listTokens", "Join tokens, without their secrets.", Access.READ,
                  self.list, {200: Tokens}, query=(*FILTERS, *PAGE_QUERY)),
            Route("GET", ONE, "getToken", "One join token, without its secret.", Access.READ,
                  self.get, {200: Token}, refusals=(404,)),
            # No idempotency key: a repetition could not show the secret again, which nobody keeps.
            Route("POST", PATH, "createToken", "A token with which one node may join, once, within `ttl_s`.",
                  Access.ADMIN, self.create, {200: Plan, 201: TokenCreated}, TokenIn, (DRY_RUN,),
                  (400, 408, 409, 413, 415, 422)),
        )  # fmt: skip

    async def _tokens(self, call: Call) -> tuple[Token, ...]:
        return tuple(views.token(view) for view in await self._registry.tokens(call.actor))

    async def list(self, call: Call) -> web.Response:
        limit, after = page_of(call)
        command = commands.ListTokens(actor=call.actor, after=after, **filters_of(call, FILTERS))
        page = await self._registry.listed(command, commands.Tokens, limit)
        return json_response(Tokens(items=tuple(map(views.token, page.items)), next_after=page.next_after))

    async def get(self, call: Call) -> web.Response:
        for token in await self._tokens(call):
            if token.id == call.name:
                return json_response(token)
        raise missing("token", call.name)

    async def create(self, call: Call) -> web.Response:
        given = await read_body(call.request, TokenIn)
        secret = secrets.token_bytes(SECRET_BYTES)
        command = commands.CreateToken(
            actor=call.actor,
            role=given.role,
            node_id=given.node,
            pool=given.pool,
            secret_hash=hash_of(secret),
            ttl_s=given.ttl_s,
            terms=writing.dry_run_of(call),
        )
        written = await writing.told(self._registry, command, given.node)
        if isinstance(written, web.Response):
            return written
        token = JoinToken(url=self._anchor.url, secret=secret, ca=self._anchor.ca, trust=self._anchor.trust)
        body = TokenCreated(
            id=written.token_id,
            token=join_token_text(token),
            role=given.role,
            node=given.node,
            pool=given.pool,
            expires_at=written.expires_at,
        )
        return json_response(body, 201, {"Location": f"{PATH}/{written.token_id}"})
