"""POST /api/v1/enrol: a join token for a certificate. The join token is the only credential that is asked for."""

from collections.abc import Mapping

from aiohttp import web

from kakuremichi.wire import commands
from kakuremichi.wire.codec import decode
from kakuremichi.wire.enrolment import BusAccess, EnrolmentAnswer, EnrolmentRequest, hash_of, proof_fits
from kakuremichi.wire.identity import Certificate, Role
from kakuremichi_portal.decoding import read_body
from kakuremichi_portal.limits import AttemptLimit
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import API, Access, Call, Route, json_response

TOKEN_STATUSES = frozenset({401, 403, 404, 410})  # the registry's refusals that are about the token itself
NOT_VALID = "secret: this join token is unknown, used or expired; ask for a new one"


class EnrolRoutes:
    def __init__(self, registry: Registry, limit: AttemptLimit, bus_access: Mapping[Role, BusAccess]) -> None:
        self._registry, self._limit, self._bus_access = registry, limit, bus_access

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", f"{API}/enrol", "enrol", "A node redeems its join token.", Access.OPEN,
                  self.enrol, {200: EnrolmentAnswer}, EnrolmentRequest, refusals=(400, 403, 409, 413, 415, 422, 429)),
        )  # fmt: skip

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
        return json_response(self._answer(await self._redeem(command)))

    async def _redeem(self, command: commands.EnrolNode) -> commands.Enrolled:
        try:
            return await self._registry.ask(command, commands.Enrolled)
        except ProblemError as error:
            if error.status in TOKEN_STATUSES:
                # One answer for unknown, used and expired: a guesser learns nothing about tokens that exist.
                raise ProblemError(403, "join-token", NOT_VALID, field="secret") from error
            raise

    def _answer(self, enrolled: commands.Enrolled) -> EnrolmentAnswer:
        role = decode(enrolled.certificate.body, Certificate).role
        return EnrolmentAnswer(
            deployment=enrolled.deployment,
            certificate=enrolled.certificate,
            trust=enrolled.trust,
            feed_key=enrolled.feed_key,
            endpoints=enrolled.endpoints,
            bus=self._bus_access[role],
        )
