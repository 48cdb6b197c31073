"""POST /api/v1/enrol: a join token for a certificate. The join token is the only credential that is asked for."""

from aiohttp import web

from kakuremichi.wire import commands
from kakuremichi.wire.enrolment import (
    BusAccess,
    EnrolmentAnswer,
    EnrolmentPending,
    EnrolmentRequest,
    hash_of,
    proof_fits,
)
from kakuremichi_portal.decoding import read_body
from kakuremichi_portal.limits import AttemptLimit
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import API, Access, Call, Route, json_response

TOKEN_STATUSES = frozenset({401, 403, 404, 410})  # the registry's refusals that are about the token itself
NOT_VALID = "secret: this join token is unknown, used or expired; ask for a new one"


class EnrolRoutes:
    def __init__(self, registry: Registry, limit: AttemptLimit, nats_url: str, ca: bytes) -> None:
        self._registry, self._limit, self._nats_url, self._ca = registry, limit, nats_url, ca

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", f"{API}/ca", "getCa", "The deployment's own CA. A join token names its hash.", Access.OPEN,
                  self.ca, {200: "application/x-pem-file"}, refusals=(404,)),
            Route("POST", f"{API}/enrol", "enrol", "A node redeems its join token.", Access.OPEN,
                  self.enrol, {200: EnrolmentAnswer, 202: EnrolmentPending}, EnrolmentRequest,
                  refusals=(400, 403, 409, 413, 415, 422, 429)),
        )  # fmt: skip

    async def ca(self, _call: Call) -> web.Response:
        if not self._ca:
            raise ProblemError(404, "no-ca", "ca: this deployment uses certificates of a public CA")
        return web.Response(body=self._ca, content_type="application/x-pem-file")

    async def enrol(self, call: Call) -> web.Response:
        self._limit.count(call.source)
        given = await read_body(call.request, EnrolmentRequest)
        if not proof_fits(given):
            raise ProblemError(
                422, "bad-proof", "proof: not a signature by identity_key over this token", field="proof"
            )
        secret_hash = hash_of(given.secret)
        command = commands.EnrolNode(
            actor=f"join-token {secret_hash.hex()[:12]}",
            secret_hash=secret_hash,
            identity_key=given.identity_key,
            sealing_key=given.sealing_key,
            networks=given.networks,
            endpoints=given.endpoints,
            source=call.source,
        )
        redeemed = await self._redeem(command)
        if isinstance(redeemed, commands.EnrolmentWaiting):
            detail = f"{redeemed.node_id}: waits until the deployment's trust keys have signed its certificate"
            return json_response(EnrolmentPending(node=redeemed.node_id, detail=detail), 202)
        return json_response(self._answer(redeemed))

    async def _redeem(self, command: commands.EnrolNode) -> commands.Enrolled | commands.EnrolmentWaiting:
        try:
            return await self._registry.redeem(command)
        except ProblemError as error:
            if error.status in TOKEN_STATUSES:
                # One answer for unknown, used and expired: a guesser learns nothing about tokens that exist.
                raise ProblemError(403, "join-token", NOT_VALID, field="secret") from error
            raise

    def _answer(self, enrolled: commands.Enrolled) -> EnrolmentAnswer:
        return EnrolmentAnswer(
            deployment=enrolled.deployment,
            certificate=enrolled.certificate,
            trust=enrolled.trust,
            feed_key=enrolled.feed_key,
            endpoints=enrolled.endpoints,
            bus=BusAccess(url=self._nats_url, jwt=enrolled.bus_jwt),
        )
