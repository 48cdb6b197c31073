"""Announcements of nodes: checked here, decided by the registry's transaction, answered to the node."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import structlog

from kakuremichi.bus.port import Bus, BusError
from kakuremichi.model.ids import NodeId
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import WireError, decode_any, encode
from kakuremichi.wire.identity import Announcement
from kakuremichi.wire.key_requests import AcceptKey, AcceptKeyAfter, AnyKeyRequest, GetCertificateOf, NodeCertificate
from kakuremichi.wire.requests import AnnounceAfter, AnyAnnounce, KeyAccepted, KeyRefused
from kakuremichi.wire.signing import DeploymentId
from kakuremichi.wire.subjects import node_of
from kakuremichi_keyring.announcement import (
    AnnouncementRefusedError,
    Known,
    OutdatedError,
    check,
    open_certificate,
    read,
)
from kakuremichi_keyring.pin import TrustPin

log = structlog.get_logger(__name__)

TIMEOUT_S = 2.5  # below what a node waits for its answer
KEPT = 20_000  # certificates: a fleet that comes back at one moment asks for each once


class Keyring:
    """Holds no key but public ones, and those only while it looks at them."""

    def __init__(self, bus: Bus, pin: TrustPin, *, now: Callable[[], float] = time.time) -> None:
        self._bus, self._pin, self._now = bus, pin, now
        self._known: OrderedDict[NodeId, Known] = OrderedDict()

    async def answer(self, subject: str, request: AnyAnnounce) -> KeyAccepted | KeyRefused:
        node = node_of(subject)
        try:
            said = read(request.announcement, node)
            await self._check(request, said, node)
            answer = await self._ask(_to_registry(request), KeyAccepted | KeyRefused)
        except AnnouncementRefusedError as error:
            log.info("announcement refused", node=node, code=error.code, reason=str(error))
            return KeyRefused(code=error.code, detail=str(error))
        except (BusError, WireError) as error:
            return KeyRefused(code="unavailable", detail=f"registry: {error}")
        if isinstance(answer, KeyAccepted):
            log.info("announcement accepted", node=node, epoch=said.epoch)
        verdict: KeyAccepted | KeyRefused = answer
        return verdict

    @staticmethod
    def refuse(error: WireError) -> KeyRefused:
        return KeyRefused(code="malformed", detail=str(error))

    async def _check(self, request: AnyAnnounce, said: Announcement, node: NodeId) -> None:
        known = self._known.get(node)
        if known is not None:
            try:
                check(request.announcement, said, known, self._now())
            except OutdatedError:
                pass  # enrolled anew, or renewed: the registry has its certificate
            else:
                return
        check(request.announcement, said, await self._learn(node, said.serial), self._now())

    async def _learn(self, node: NodeId, serial: int) -> Known:
        answer = await self._ask(GetCertificateOf(node_id=node, serial=serial), NodeCertificate | KeyRefused)
        if isinstance(answer, KeyRefused):
            raise AnnouncementRefusedError(answer.code, answer.detail)
        self._pin.check(answer.trust)
        known = open_certificate(DeploymentId(answer.deployment), answer.trust, answer.certificate)
        if known.certificate.node_id != node:
            raise AnnouncementRefusedError("unavailable", f"registry: answered for {known.certificate.node_id}")
        self._known[node] = known
        self._known.move_to_end(node)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return known

    async def _ask(self, request: AnyKeyRequest, answer: Any) -> Any:
        reply = await self._bus.request(subjects.KEY, encode(request), timeout_s=TIMEOUT_S)
        return decode_any(reply.data, answer, name="registry's answer")


def _to_registry(request: AnyAnnounce) -> AcceptKey | AcceptKeyAfter:
    if isinstance(request, AnnounceAfter):
        return AcceptKeyAfter(announcement=request.announcement, before=request.before)
    return AcceptKey(announcement=request.announcement)
