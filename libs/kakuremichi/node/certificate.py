"""A node's certificate: the next one is asked for when a third of its life is left, and announced together with the key
that the node has. Nothing is interrupted by it; until the registry knows the next one the present one counts.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from msgspec.structs import replace

from kakuremichi.bus.port import Bus, BusError
from kakuremichi.node.announcing import make_announcement
from kakuremichi.node.renewal import ASK_TIMEOUT_S, RETRY, RenewalError, stopped_within
from kakuremichi.node.state import Enrolment, NodeState
from kakuremichi.reconcile.verify import NotTrustedError, Verifier
from kakuremichi.runtime.backoff import around
from kakuremichi.wire import requests, subjects
from kakuremichi.wire.codec import WireError, decode_any, encode
from kakuremichi.wire.granting import continues
from kakuremichi.wire.identity import Certificate
from kakuremichi.wire.renewal import certificate_is_due
from kakuremichi.wire.signing import Signed

log = structlog.get_logger(__name__)

LOOK_S = 3600.0

Answer = requests.CertificateRenewed | requests.CertificateWaiting | requests.RenewalRefused


def check_next(signed: Signed, held: Certificate, verifier: Verifier) -> Certificate:
    """The certificate in it, if it goes on where `held` ends; :class:`RenewalError` says what does not fit."""
    try:
        fresh = verifier.certificate(signed, new=True)
    except (NotTrustedError, WireError) as error:
        raise RenewalError(str(error)) from error
    if not continues(fresh, held):
        raise RenewalError(f"certificate of {fresh.node_id}: it is for another node than this one, {held.node_id}")
    if fresh.serial <= held.serial or fresh.not_after <= held.not_after:
        raise RenewalError(f"certificate {fresh.serial} of {fresh.node_id}: it is not newer than {held.serial}")
    return fresh


@dataclass
class CertificateRenewer:
    """`announce` says the newest announcement until it is accepted; `warn` puts a sentence into the report."""

    bus: Bus
    state: NodeState
    enrolment: Enrolment
    verifier: Verifier
    announce: Callable[[], None]
    warn: Callable[[str], None]
    now: Callable[[], float] = time.time

    async def run(self, stop: asyncio.Event) -> None:
        failures = 0
        while not stop.is_set():
            held = self.state.newest(self.enrolment)
            if certificate_is_due(held.node, self.now()):
                failures = 0 if await self._renew(held) else failures + 1
            if await stopped_within(RETRY.delay_s(failures) if failures else around(LOOK_S), stop):
                return

    async def _renew(self, held: Enrolment) -> bool:
        """True if there is nothing to be tried again soon."""
        try:
            answer = await self._ask(held)
            if isinstance(answer, requests.CertificateRenewed):
                fresh = check_next(answer.certificate, held.node, self.verifier)
                self._take(held, answer.certificate)
                log.info("certificate renewed", serial=fresh.serial, until=fresh.not_after)
                self.warn("")
                return True
            reason = "it waits for the trust keys" if isinstance(answer, requests.CertificateWaiting) else answer.detail
        except (BusError, WireError, RenewalError) as error:
            log.warning("certificate not renewed", reason=str(error))
            return False
        log.warning("certificate not renewed", reason=reason)
        until = time.strftime("%Y-%m-%d", time.gmtime(held.node.not_after))
        self.warn(f"certificate: ends on {until}, and the next one is not there: {reason}")
        return True

    async def _ask(self, held: Enrolment) -> Answer:
        request = encode(requests.RenewCertificate())
        reply = await self.bus.request(subjects.renew(held.node.node_id), request, timeout_s=ASK_TIMEOUT_S)
        answer: Answer = decode_any(reply.data, Answer, name="answer")
        if isinstance(answer, requests.RenewalRefused) and answer.code == "unavailable":
            raise RenewalError(answer.detail)
        return answer

    def _take(self, held: Enrolment, certificate: Signed) -> None:
        """Keep it and say the present key with it. Without an announcement there is no key yet, and it begins so."""
        fresh = Enrolment(replace(held.answer, certificate=certificate), held.portal)
        kept = self.state.announcement()
        self.state.save_enrolment(fresh)
        if kept is None:
            return
        said = make_announcement(
            fresh, self.state.identity(), kept, kept[1].public_key, boot_id=kept[1].boot_id, endpoints=kept[1].endpoints
        )
        self.state.save_announcement(said)
        self.announce()
