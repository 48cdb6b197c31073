"""/api/v1/trust: nodes that wait for trust keys which do not lie on the server. The signatures are made elsewhere."""

from aiohttp import web
from msgspec import UNSET, Struct

from kakuremichi.wire import commands
from kakuremichi.wire.granting import Grants
from kakuremichi.wire.signing import Signed
from kakuremichi_portal import plan_view
from kakuremichi_portal.decoding import query_dry_run, read_body
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
                  self.pending, {200: Grants}),
            Route("POST", SIGNATURES, "submitSignature", "One of them, signed.", Access.ADMIN,
                  self.submit, {200: (GrantOut, Plan)}, GrantIn, (DRY_RUN,), (400, 404, 408, 409, 413, 415, 422)),
        )  # fmt: skip

    async def pending(self, call: Call) -> web.Response:
        answer = await self._registry.ask(commands.ListPending(actor=call.actor), commands.PendingCertificates)
        grants = Grants(
            deployment=answer.deployment, trust=answer.trust, certificates=answer.certificates, former=answer.former
        )
        return json_response(grants)

    async def submit(self, call: Call) -> web.Response:
        given = await read_body(call.request, GrantIn)
        terms = commands.Terms(dry_run=True) if query_dry_run(call.request) else UNSET
        command = commands.SubmitGrant(actor=call.actor, certificate=given.certificate, terms=terms)
        taken = await self._registry.ask(command, commands.Result)
        if isinstance(taken, commands.Plan):
            return json_response(plan_view.plan(taken, "certificate"))
        if not isinstance(taken, commands.GrantTaken):
            raise ProblemError(502, "registry-answer", f"the registry answered with {type(taken).__name__}")
        return json_response(GrantOut(node=taken.node_id, signatures=taken.signatures, needed=taken.needed))
