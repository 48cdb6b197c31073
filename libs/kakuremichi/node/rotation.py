"""A new WireGuard key for a running node: when somebody asks for it, and on a schedule.

It is announced first and served once it was accepted: a control plane that is slow or away costs the tunnels nothing.
Gateways move in the moment of the acceptance, agents a little later, with their own key as with that of a gateway: so
whoever calls, and that is the agent, is understood. What a gateway has for an agent waits in its engine until then.
The engine has one key at any time, and the private half of the next one is in memory only: a process that dies on the
way makes another.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from kakuremichi.dataplane.wireguard.device import Device, DeviceError
from kakuremichi.model.keys import PrivateKey
from kakuremichi.node.announcing import make_announcement
from kakuremichi.node.direct import own_exchange
from kakuremichi.node.state import Enrolment, NodeState
from kakuremichi.runtime.waiting import first_of
from kakuremichi.wire.codec import decode
from kakuremichi.wire.direct import Exchange
from kakuremichi.wire.identity import Announcement
from kakuremichi.wire.records import AnyRecord, Rotate

log = structlog.get_logger(__name__)

LOOK_S = 60.0
RETRY_S = 1.0
# How long an agent leaves its gateways to move: they hear of the acceptance when it does. One that has not moved yet
# would not understand the agent's first word, and a second one loses what waits for it. Until then what gateways have
# for the agent waits in their engines; nothing is lost.
SETTLE_S = 0.15


async def nothing() -> None:
    """There is nobody to be told."""


def made_at(history: tuple[Announcement, ...]) -> float:
    """The Unix second at which the newest key of `history` (newest first) was made: its first epoch says it."""
    first = history[0]
    for said in history[1:]:
        if said.public_key != first.public_key:
            break
        first = said
    return first.epoch / 1000


@dataclass
class Rotator:
    """`every_s` 0: only when asked. `served` is awaited whenever the engine has just been given a new key."""

    device: Device
    state: NodeState
    enrolment: Enrolment
    every_s: float = 0.0
    served: Callable[[], Awaitable[None]] = nothing
    announce: Callable[[], None] = lambda: None  # says the newest announcement, until it is accepted
    now: Callable[[], float] = time.time
    _asked: Rotate | None = None
    _accepted: int = 0  # epoch
    _pending: PrivateKey | None = None  # announced, and not served yet
    _began: float = 0.0
    _jitter: float = field(default_factory=lambda: random.uniform(0.9, 1.0))
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self, record: AnyRecord | None) -> None:
        """What the feed says of our key; may be said any number of times."""
        if isinstance(record, Rotate) and record != self._asked:
            self._asked = record
            self._wake.set()

    async def accepted(self, said: Announcement) -> None:
        """The keyring has taken this announcement of ours."""
        self._accepted = max(self._accepted, said.epoch)
        if self._pending is not None and said.public_key == self._pending.public():
            if self.enrolment.node.role == "agent":
                await asyncio.sleep(SETTLE_S)
            await self.serve()
        self._wake.set()

    async def serve(self) -> None:
        """Give the engine the key that is announced, if it has not got it yet: a peer waits for it there."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            await self.device.configure(pending, None)  # the sites' routers and firewalls know the port
        except DeviceError as error:
            self._pending = pending
            log.warning("new key not served", reason=str(error))
            return
        await self.served()
        log.info("key rotated", took_ms=round((time.monotonic() - self._began) * 1000, 1))

    def exchange(self) -> Exchange:
        """What this node says of itself where the key counts that its engine has: a peer moves to it at once."""
        newest = own_exchange(self.state)
        if self._pending is None:
            return newest
        pending = self._pending.public()
        served = (signed for signed in self.state.before() if decode(signed.body, Announcement).public_key != pending)
        return Exchange(certificate=newest.certificate, announcement=next(served, newest.announcement))

    def doubt(self) -> None:
        """A peer does not know our key: say it again, and hear whether it still stands."""
        self.announce()

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._wake.clear()
            if self._pending is None and self._is_due() and self._may_begin():
                await self._begin()
            elif self._pending is not None and self._accepted >= self._newest().epoch:
                await self.serve()  # the engine did not answer the last time
            pause = RETRY_S if self._pending is not None or self._is_due() else LOOK_S
            await first_of(stop, self._wake, timeout_s=pause)

    def _is_due(self) -> bool:
        newest = self._newest()
        if self._asked is not None and self._asked.public_key == newest.public_key:
            return True
        return bool(self.every_s) and self.now() >= made_at(self._history()) + self.every_s * self._jitter

    def _may_begin(self) -> bool:
        """Only from an announcement that stands: a node that nobody hears keeps the key that its peers know."""
        return self._accepted >= self._newest().epoch

    async def _begin(self) -> None:
        private = PrivateKey.generate()
        kept = self.state.announcement()
        if kept is None:
            return
        self._began = time.monotonic()
        signed = make_announcement(
            self.state.newest(self.enrolment),
            self.state.identity(),
            kept,
            private.public(),
            boot_id=self.state.boot_id(),
            endpoints=kept[1].endpoints,
        )
        self.state.save_announcement(signed)
        self._pending = private
        self.announce()

    def _newest(self) -> Announcement:
        return self._history()[0]

    def _history(self) -> tuple[Announcement, ...]:
        kept = self.state.announcement()
        if kept is None:
            raise RuntimeError("rotation: it begins after the first key was made")
        return (kept[1], *(decode(signed.body, Announcement) for signed in self.state.before()))
