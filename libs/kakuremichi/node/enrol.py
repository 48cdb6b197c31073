"""Enrolment from the node's side: one HTTP exchange, believed only as far as the join token goes."""

import asyncio

import aiohttp
import structlog

from kakuremichi.node.state import Enrolment, NodeState
from kakuremichi.reconcile.verify import NotTrustedError
from kakuremichi.wire.codec import WireError
from kakuremichi.wire.enrolment import JoinToken, JoinTokenRefusedError, encode_json, read_answer, request_to_enrol

log = structlog.get_logger()

TIMEOUT_S = 10.0
RETRY_S = 2.0


class EnrolmentRefusedError(Exception):
    """The portal said no, or what it said is not to be believed; a sentence."""


async def enrol(
    state: NodeState, token: JoinToken, *, networks: tuple[str, ...], endpoints: tuple[str, ...] = ()
) -> Enrolment:
    """Redeem the token and keep the answer. An unreachable portal is waited for; a refusal is final."""
    request = request_to_enrol(
        token, state.identity(), state.sealing_key().public(), networks=networks, endpoints=endpoints
    )
    body = encode_json(request)
    while True:
        try:
            data = await _post(token.url, body)
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            log.warning("portal not reached", url=token.url, reason=str(error))
            await asyncio.sleep(RETRY_S)
            continue
        break
    try:
        enrolment = Enrolment(read_answer(token, data))
        enrolment.verifier()
    except (JoinTokenRefusedError, NotTrustedError, WireError) as error:
        raise EnrolmentRefusedError(str(error)) from error
    if enrolment.node.identity_key != request.identity_key:
        raise EnrolmentRefusedError("enrolment answer: its certificate is for another identity key")
    state.save_enrolment(enrolment)
    return enrolment


async def _post(url: str, body: bytes) -> bytes:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    headers = {"Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(f"{url}/api/v1/enrol", data=body, headers=headers) as answer,
    ):
        data = await answer.read()
        if answer.status >= 500:
            raise aiohttp.ClientConnectionError(f"the portal answers {answer.status}")
        if answer.status >= 400:
            raise EnrolmentRefusedError(f"the portal refuses the enrolment: {data.decode(errors='replace')[:500]}")
        return data
