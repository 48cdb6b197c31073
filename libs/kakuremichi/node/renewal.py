"""A node's credentials for the bus: kept on disk, renewed at a third of their life, asked for over HTTP once they are
too old for the bus. Whatever becomes of them, what is applied stays.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
import structlog
from nacl.signing import SigningKey

from kakuremichi.bus import jwt
from kakuremichi.bus.connection import Credentials
from kakuremichi.bus.credentials import own_credentials
from kakuremichi.bus.nkey import public_text
from kakuremichi.bus.port import Bus, BusError
from kakuremichi.node.portal import PortalRefusedError, PortalUnreachableError, post
from kakuremichi.node.state import Enrolment, NodeState
from kakuremichi.runtime.backoff import Backoff, around
from kakuremichi.wire import requests, subjects
from kakuremichi.wire.codec import WireError, decode_any, encode
from kakuremichi.wire.enrolment import encode_json
from kakuremichi.wire.renewal import read_renewal_answer, request_to_renew
from kakuremichi.wire.signing import verify_key

log = structlog.get_logger(__name__)

ASK_TIMEOUT_S = 3.0
RETRY = Backoff(base_s=5.0, cap_s=300.0)
ASK_PORTAL = Backoff(base_s=1.0, cap_s=20.0)


class RenewalError(Exception):
    """No new credentials were had; a sentence."""


FromPortal = Callable[[], Awaitable[str]]
"""Asks the portal for a JWT; :class:`RenewalError` says why there is none."""


async def from_portal(state: NodeState, enrolment: Enrolment) -> str:
    """A JWT over HTTP, for the proof of the identity key; :class:`RenewalError`."""
    node = state.newest(enrolment).node
    url = f"{enrolment.portal}/api/v1/renew"
    request = request_to_renew(enrolment.deployment, node.node_id, node.serial, state.identity())
    try:
        return read_renewal_answer(await post(url, encode_json(request), state.ca_file()))
    except (PortalUnreachableError, PortalRefusedError) as error:
        raise RenewalError(str(error)) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RenewalError(f"renewal answer: {error}") from error


def check_jwt(text: str, identity: SigningKey) -> jwt.Claims:
    """What it says, if it is for this node's key and has an end; :class:`RenewalError`."""
    try:
        claims = jwt.read(text)
    except jwt.JwtRefusedError as error:
        raise RenewalError(str(error)) from error
    if claims.subject != public_text("user", verify_key(identity)):
        raise RenewalError("jwt: it is for another identity key")
    if claims.exp <= claims.issued_at:
        raise RenewalError("jwt: it has no end after its beginning")
    return claims


def renewal_at(claims: jwt.Claims) -> float:
    """The Unix second at which a third of its life is over."""
    return claims.issued_at + (claims.exp - claims.issued_at) / 3


@dataclass
class BusPass:
    """The JWT of the moment. `refusals` counts how often a server did not want it."""

    state: NodeState
    enrolment: Enrolment
    from_portal: FromPortal
    refusals: Callable[[], int] = lambda: 0
    now: Callable[[], float] = time.time
    _refused: int = 0
    _failures: int = 0
    _next_ask: float = 0.0
    _claims: jwt.Claims | None = field(default=None, repr=False)

    @property
    def text(self) -> str:
        return self.state.bus_jwt() or self.enrolment.answer.bus.jwt

    @property
    def claims(self) -> jwt.Claims:
        """What the JWT says; one that is none counts as expired."""
        if self._claims is None:
            try:
                self._claims = check_jwt(self.text, self.state.identity())
            except RenewalError as error:
                log.warning("access to the bus unusable", reason=str(error))
                self._claims = jwt.Claims(issuer="", subject="", issued_at=0, exp=1)
        return self._claims

    async def credentials(self) -> Credentials:
        """For the next connection. The portal is asked first if the JWT has expired or the server refused it."""
        refused, known = self.refusals(), self._refused
        if self.claims.exp <= self.now() or refused > known:
            await self._ask_portal()
            self._refused = refused
        return own_credentials(self.text, self.state.identity())

    def keep(self, text: str) -> None:
        """Take a new JWT; :class:`RenewalError` if it is none for this node's key."""
        claims = check_jwt(text, self.state.identity())
        self.state.save_bus_jwt(text)
        self._claims = claims

    async def _ask_portal(self) -> None:
        """Never more often than the backoff allows; a failure is one failed attempt to connect."""
        if self.now() < self._next_ask:
            return
        try:
            self.keep(await self.from_portal())
        except RenewalError:
            self._next_ask = self.now() + ASK_PORTAL.delay_s(self._failures)
            self._failures += 1
            raise
        self._failures = 0
        log.info("access to the bus renewed", way="portal", until=self.claims.exp)


class Renewer:
    """Renews over the bus while that works."""

    def __init__(self, bus: Bus, bus_pass: BusPass) -> None:
        self._bus, self._pass = bus, bus_pass

    async def run(self, stop: asyncio.Event) -> None:
        failures = 0
        while not stop.is_set():
            pause = RETRY.delay_s(failures) if failures else around(self._due_s())
            if await stopped_within(pause, stop):
                return
            failures = 0 if await self._renew() else failures + 1

    def _due_s(self) -> float:
        claims = self._pass.claims
        # A clock that is wrong must not make the node ask all the time.
        return max(renewal_at(claims) - self._pass.now(), (claims.exp - claims.issued_at) / 20)

    async def _renew(self) -> bool:
        try:
            self._pass.keep(await self._ask())
        except (BusError, WireError, RenewalError) as error:
            log.warning("access to the bus not renewed", reason=str(error))
            return False
        log.info("access to the bus renewed", way="bus", until=self._pass.claims.exp)
        return True

    async def _ask(self) -> str:
        subject = subjects.renew(self._pass.enrolment.node.node_id)
        reply = await self._bus.request(subject, encode(requests.Renew()), timeout_s=ASK_TIMEOUT_S)
        answer: requests.Renewed | requests.RenewalRefused = decode_any(
            reply.data, requests.Renewed | requests.RenewalRefused, name="answer"
        )
        if isinstance(answer, requests.RenewalRefused):
            raise RenewalError(answer.detail)
        return answer.jwt


async def stopped_within(seconds: float, stop: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await stop.wait()
    except TimeoutError:
        return False
