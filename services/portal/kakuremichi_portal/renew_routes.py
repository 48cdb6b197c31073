"""POST /api/v1/renew: new credentials of the bus for a node whose old ones have expired. Its signature is the proof."""

from aiohttp import web

from kakuremichi.wire import commands
from kakuremichi.wire.renewal import RenewalAnswer, RenewalRequest
from kakuremichi_portal.decoding import read_body
from kakuremichi_portal.limits import AttemptLimit
from kakuremichi_portal.registry import Registry
from kakuremichi_portal.route import API, Access, Call, Route, json_response


class RenewRoutes:
    def __init__(self, registry: Registry, limit: AttemptLimit) -> None:
        self._registry, self._limit = registry, limit

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", f"{API}/renew", "renew", "A node renews its access to the bus.", Access.OPEN,
                  self.renew, {200: RenewalAnswer}, RenewalRequest, refusals=(400, 403, 413, 415, 422, 429)),
        )  # fmt: skip

    async def renew(self, call: Call) -> web.Response:
        self._limit.count(call.source)
        given = await read_body(call.request, RenewalRequest)
        command = commands.RenewAccess(actor="node", renewal=given.renewal, source=call.source)
        renewed = await self._registry.ask(command, commands.AccessRenewed)
        return json_response(RenewalAnswer(jwt=renewed.jwt))
