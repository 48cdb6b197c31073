"""/api/v1/trust: nodes that wait for trust keys which do not lie on the server. The signatures are made elsewhere."""

from aiohttp import web
from msgspec import UNSET, Struct, structs

from kakuremichi.wire import commands
from kakuremichi.wire.granting import Grants
from kakuremichi.wire.signing import Signed
from kakuremichi_portal import plan_view, writing
from kakuremichi_portal.decoding import read_body
from kakuremichi_portal.listing import PAGE_QUERY, page_of
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import API, DRY_RUN, Access, Call, Route, json_response
from kakuremichi_portal.shapes import Plan

PENDING = f"{API}/trust/pending"
SIGNATURES = f"{API}/trust/signatures"


class GrantIn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    certificate: Signed


class GrantOut(Struct, frozen=True, kw_only=True):
    """`signatures` of `needed`: with as many the node is let in."""

    node: str
    signatures: int
    needed: int


class TrustRoutes:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", PENDING, "listPending", "Certificates that wait for offline trust keys.", Access.READ,
                  self.pending, {200: Grants}, query=PAGE_QUERY),
            Route("POST", SIGNATURES, "submitSignature", "One of them, signed.", Access.ADMIN,
                  self.submit, {200: (GrantOut, Plan)}, GrantIn, (DRY_RUN,), (400, 404, 408, 409, 413, 415, 422)),
        )  # fmt: skip

    async def pending(self, call: Call) -> web.Response:
        limit, after = page_of(call)
        return json_response(await self._waiting(call.actor, limit, after))

    async def _waiting(self, actor: str, limit: int | None, after: str) -> Grants:
        """At most `limit` of them, or all, as one page."""
        found: Grants | None = None
        while True:
            left = UNSET if limit is None else limit - len(found.certificates if found else ())
            command = commands.ListPending(actor=actor, after=after or UNSET, limit=left)
            page = await self._registry.ask(command, commands.PendingCertificates)
            before = found or Grants(deployment=page.deployment, trust=page.trust, certificates=())
            found = structs.replace(
                before, certificates=(*before.certificates, *page.certificates),
                former=(*before.former, *page.former), next_after=page.next_after,
            )  # fmt: skip
            if page.next_after in ("", after) or len(found.certificates) == limit:
                return found
            after = page.next_after

    async def submit(self, call: Call) -> web.Response:
        given = await read_body(call.request, GrantIn)
        command = commands.SubmitGrant(
            actor=call.actor, certificate=given.certificate, terms=writing.dry_run_of(call)
        )  # fmt: skip
        taken = await self._registry.ask(command, commands.Result)
        if isinstance(taken, commands.Plan):
            return json_response(plan_view.plan(taken, "certificate"))
        if not isinstance(taken, commands.GrantTaken):
            raise ProblemError(502, "registry-answer", f"the registry answered with {type(taken).__name__}")
        return json_response(GrantOut(node=taken.node_id, signatures=taken.signatures, needed=taken.needed))
