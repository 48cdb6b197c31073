"""Enrolment from the node's side: one HTTP exchange, believed only as far as the join token goes."""

import asyncio
import random
from http import HTTPStatus
from pathlib import Path

import aiohttp
import structlog

from kakuremichi.node.portal import connector
from kakuremichi.node.renewal import RenewalError, check_jwt
from kakuremichi.node.state import Enrolment, NodeState
from kakuremichi.reconcile.verify import NotTrustedError
from kakuremichi.runtime.tls import CaRefusedError, PlainTextError, check_ca, refuse_plain
from kakuremichi.wire.codec import WireError
from kakuremichi.wire.enrolment import JoinToken, JoinTokenRefusedError, encode_json, read_answer, request_to_enrol

log = structlog.get_logger()

TIMEOUT_S = 10.0
MAX_CA_BYTES = 16384
FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 30.0  # between questions: people sign when they can


class EnrolmentRefusedError(Exception):
    """The portal said no, or what it said is not to be believed; a sentence."""


async def enrol(
    state: NodeState, token: JoinToken, *, networks: tuple[str, ...], endpoints: tuple[str, ...] = ()
) -> Enrolment:
    """Redeem the token and keep the answer. A refusal is final.

    Waited for without limit: a portal that is not reached or overrun, and the signature of trust keys that do not lie
    on the server. What is asked meanwhile is known by the identity key, so the token may long be over.
    """
    try:
        refuse_plain(token.url)
    except PlainTextError as error:
        raise EnrolmentRefusedError(str(error)) from error
    request = request_to_enrol(
        token, state.identity(), state.sealing_key().public(), networks=networks, endpoints=endpoints
    )
    body, wait_s = encode_json(request), FIRST_WAIT_S
    while True:
        try:
            await _trust_ca(state, token)
            data = await _post(token.url, body, state.ca_file())
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            log.warning("portal not reached", url=token.url, reason=str(error))
        else:
            if data is not None:
                break
            log.info("waiting for the trust keys to sign", url=token.url)
        await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))
        wait_s = min(wait_s * 1.5, LONGEST_WAIT_S)
    try:
        enrolment = Enrolment(read_answer(token, data), token.url)
        enrolment.verifier()
        check_jwt(enrolment.answer.bus.jwt, state.identity())
        refuse_plain(enrolment.answer.bus.url)
    except (PlainTextError, JoinTokenRefusedError, NotTrustedError, WireError, RenewalError) as error:
        raise EnrolmentRefusedError(str(error)) from error
    if enrolment.node.identity_key != request.identity_key:
        raise EnrolmentRefusedError("enrolment answer: its certificate is for another identity key")
    state.save_bus_jwt(enrolment.answer.bus.jwt)  # first: one of a former enrolment must not stay beside this one
    state.save_enrolment(enrolment)
    return enrolment


async def _trust_ca(state: NodeState, token: JoinToken) -> None:
    """Take over the deployment's CA, believed for its hash in the token and not for who shows it."""
    if not token.ca or not token.url.startswith("https://"):
        return
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(ssl=False)) as session,
        session.get(f"{token.url}/api/v1/ca", allow_redirects=False) as answer,
    ):
        _raise_unless_well(answer)
        pem = await answer.content.read(MAX_CA_BYTES)
    try:
        state.save_ca(check_ca(pem, token.ca))
    except CaRefusedError as error:
        raise EnrolmentRefusedError(str(error)) from error


async def _post(url: str, body: bytes, ca_file: Path | None) -> bytes | None:
    """The answer; None if it is that somebody has yet to sign."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    headers = {"Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=connector(url, ca_file)) as session,
        session.post(f"{url}/api/v1/enrol", data=body, headers=headers) as answer,
    ):
        data = await answer.read()
        _raise_unless_well(answer)
        if answer.status >= 400:
            raise EnrolmentRefusedError(f"the portal refuses the enrolment: {data.decode(errors='replace')[:500]}")
        return None if answer.status == HTTPStatus.ACCEPTED else data


def _raise_unless_well(answer: aiohttp.ClientResponse) -> None:
    """A portal that fails or is overrun (many nodes behind one address ask at once) is asked again later."""
    if answer.status >= 500 or answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        raise aiohttp.ClientConnectionError(f"the portal answers {answer.status}")
