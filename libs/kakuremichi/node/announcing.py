"""A node's own key: make the announcement, keep it, ask until it is accepted."""

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Callable

import structlog
from nacl.signing import SigningKey

from kakuremichi.bus.port import Bus, BusError
from kakuremichi.model.keys import PublicKey
from kakuremichi.node.state import Enrolment, NodeState
from kakuremichi.runtime.waiting import first_of
from kakuremichi.wire import requests, signing, subjects
from kakuremichi.wire.codec import WireError, decode_any, encode
from kakuremichi.wire.identity import NO_HASH, Announcement
from kakuremichi.wire.signing import Signed

log = structlog.get_logger()

ASK_TIMEOUT_S = 3.0
PAUSE_S = (0.2, 30.0)
ASK_AGAIN_S = 300.0  # an accepted key is said again: a restored registry may have forgotten it


def next_epoch(last: int, now_ms: int) -> int:
    """Epochs grow with every key and survive lost state: max(last + 1, Unix ms)."""
    return max(last + 1, now_ms)


def make_announcement(
    enrolment: Enrolment,
    identity: SigningKey,
    previous: tuple[Signed, Announcement] | None,
    public_key: PublicKey,
    *,
    boot_id: bytes,
    endpoints: tuple[str, ...],
    exceed: int = 0,
    now_ms: int | None = None,
) -> Signed:
    """Sign `public_key` as the node's own, with an epoch above `previous` and above `exceed`."""
    node = enrolment.node
    last = max(previous[1].epoch if previous else 0, exceed)
    body = encode(
        Announcement(
            node_id=node.node_id,
            serial=node.serial,
            public_key=public_key,
            epoch=next_epoch(last, now_ms if now_ms is not None else time.time_ns() // 1_000_000),
            boot_id=boot_id,
            endpoints=endpoints,
            previous=hashlib.sha256(previous[0].body).digest() if previous else NO_HASH,
        )
    )
    return signing.sign(signing.ANNOUNCEMENT, enrolment.deployment, body, identity)


class Announcer:
    """Says the node's key to the keyring until it is accepted, and again when the bus comes back."""

    def __init__(
        self,
        bus: Bus,
        state: NodeState,
        enrolment: Enrolment,
        on_error: Callable[[str], None],
        *,
        new_key: Callable[[], Awaitable[None]],
        on_accepted: Callable[[Announcement], Awaitable[None]] | None = None,
    ) -> None:
        """`new_key` makes another key and announcement, for the case that this one may never be used again."""
        self._bus, self._state, self._enrolment, self._on_error = bus, state, enrolment, on_error
        self._new_key, self._on_accepted = new_key, on_accepted
        self._wake = asyncio.Event()
        self.accepted_epoch = 0

    def announce_again(self) -> None:
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        self._bus.on_connected(lambda _generation: self._wake.set())
        failures = 0
        while not stop.is_set():
            self._wake.clear()
            if not self._bus.generation:
                failures, pause = 0, PAUSE_S[1]  # the connection wakes us; being away is no refusal
            elif await self._ask():
                failures, pause = 0, ASK_AGAIN_S
            else:
                failures += 1
                pause = min(PAUSE_S[1], PAUSE_S[0] * 2 ** min(failures, 8))
            await first_of(stop, self._wake, timeout_s=pause * random.uniform(0.8, 1.2))

    async def _ask(self) -> bool:
        kept = self._state.announcement()
        if kept is None:
            return False
        node = self._enrolment.node.node_id
        request = encode(requests.AnnounceAfter(announcement=kept[0], before=self._state.before()))
        try:
            reply = await self._bus.request(subjects.announce(node), request, timeout_s=ASK_TIMEOUT_S)
            answer: requests.KeyAccepted | requests.KeyRefused = decode_any(
                reply.data, requests.KeyAccepted | requests.KeyRefused, name="answer"
            )
        except (BusError, WireError) as error:
            log.info("announcement not answered", reason=str(error))
            return False
        if isinstance(answer, requests.KeyAccepted):
            self.accepted_epoch = answer.epoch
            self._on_error("")
            log.info("key accepted", epoch=answer.epoch)
            if self._on_accepted is not None:
                await self._on_accepted(kept[1])
            return True
        await self._refused(answer, kept)
        return False

    async def _refused(self, answer: requests.KeyRefused, kept: tuple[Signed, Announcement]) -> None:
        log.warning("key refused", code=answer.code, detail=answer.detail)
        self._on_error(f"key refused: {answer.detail}")
        if answer.code == "held":
            # Once replaced or removed, or somebody else's: a key is accepted once in the whole history.
            await self._new_key()
        if answer.code != "not-newer":
            return
        # The epoch that the registry knows is above ours (lost state, a clock set back): the same key, said above it.
        signed = make_announcement(
            self._state.newest(self._enrolment),
            self._state.identity(),
            kept,
            kept[1].public_key,
            boot_id=kept[1].boot_id,
            endpoints=kept[1].endpoints,
            exceed=answer.epoch,
        )
        self._state.save_announcement(signed)
