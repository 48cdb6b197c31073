"""A gateway as a witness of the log: it signs each checkpoint that continues the one before, and tells if one does not.

The last one that it signed is on disk, and with it what contradicts it: two statements of one key are the evidence.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from kakuremichi.audit.seals import AuthorityError
from kakuremichi.audit.witness import ForkError, judge
from kakuremichi.bus.port import Bus, BusError
from kakuremichi.node.renewal import stopped_within
from kakuremichi.node.state import Enrolment, NodeState
from kakuremichi.runtime.backoff import around
from kakuremichi.runtime.files import write_atomically
from kakuremichi.wire import signing, subjects
from kakuremichi.wire.checkpoints import WITNESS, AskCheckpoint, Checkpoint, CheckpointRefused, NewestCheckpoint
from kakuremichi.wire.codec import WireError, decode, decode_any, encode
from kakuremichi.wire.identity import TrustSet
from kakuremichi.wire.signing import Signed

log = structlog.get_logger()

EVERY_S = 60.0
FIRST_S = 5.0
TIMEOUT_S = 5.0
LOG_TOPIC = "log"  # of the warning


class Witness:
    """`warn(topic, sentence)` puts a sentence into the node's report until "" takes it back."""

    def __init__(
        self, bus: Bus, state: NodeState, enrolment: Enrolment, warn: Callable[[str, str], None], *,
        every_s: float = EVERY_S,
    ) -> None:  # fmt: skip
        self._bus, self._state, self._enrolment, self._warn = bus, state, enrolment, warn
        self._every_s = every_s
        self._members = decode(enrolment.answer.trust.body, TrustSet)
        self._told = 0  # the size of the checkpoint whose signature the registry has

    @property
    def file(self) -> Path:
        return self._state.directory / "checkpoint"

    @property
    def evidence(self) -> Path:
        return self._state.directory / "checkpoint-contradicted"

    async def run(self, stop: asyncio.Event) -> None:
        pause = min(FIRST_S, self._every_s)
        while not await stopped_within(around(pause), stop):
            try:
                await self.once()
            except (BusError, WireError, AuthorityError) as error:
                log.info("checkpoint not witnessed", reason=str(error))
            pause = self._every_s

    async def once(self) -> int:
        """Ask for the newest checkpoint and sign it; how many rows the last one has that was signed.

        :class:`BusError`, :class:`WireError`, :class:`AuthorityError` if there is no answer that counts.
        """
        held = self._held()
        seen = decode(held.body, Checkpoint) if held else None
        answer = await self._ask(held, seen)
        if isinstance(answer, CheckpointRefused):
            log.info("no checkpoint to witness", code=answer.code, reason=answer.detail)
            return seen.size if seen else 0
        try:
            fresh = judge(seen, answer, self._enrolment.deployment, self._members)
        except ForkError as error:
            self._contradicted(answer, error)
            return seen.size if seen else 0
        self._warn(LOG_TOPIC, "")
        if seen is None or fresh.size > seen.size:
            write_atomically(self.file, encode(answer.checkpoint))
            log.info("checkpoint witnessed", size=fresh.size, root=fresh.root.hex())
            await self._ask(answer.checkpoint, fresh)
        return fresh.size

    async def _ask(self, held: Signed | None, seen: Checkpoint | None) -> NewestCheckpoint | CheckpointRefused:
        request = AskCheckpoint()
        if held is not None and seen is not None:
            signed = signing.sign(WITNESS, self._enrolment.deployment, held.body, self._state.identity())
            signature = signed.signatures[0] if self._told != seen.size else None
            request = AskCheckpoint(log_id=seen.log_id, size=seen.size, signature=signature)
        subject = subjects.witness(self._enrolment.node.node_id)
        reply = await self._bus.request(subject, encode(request), timeout_s=TIMEOUT_S)
        answer: NewestCheckpoint | CheckpointRefused = decode_any(
            reply.data, NewestCheckpoint | CheckpointRefused, name="answer"
        )
        if seen is not None and isinstance(answer, NewestCheckpoint):
            self._told = seen.size
        return answer

    def _contradicted(self, answer: NewestCheckpoint, error: ForkError) -> None:
        """Nothing that is applied changes: the log decides about no packet. People have to look."""
        if not self.evidence.exists():
            write_atomically(self.evidence, encode(answer))
        self._warn(LOG_TOPIC, f"log-fork: {error}; evidence is in {self.file.name} and {self.evidence.name}")
        log.error("checkpoint contradicts the one before", reason=str(error))

    def _held(self) -> Signed | None:
        try:
            return decode(self.file.read_bytes(), Signed)
        except FileNotFoundError:
            return None
