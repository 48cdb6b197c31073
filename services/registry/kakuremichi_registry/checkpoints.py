"""Checkpoints: every so many rows, and every minute, the feed key signs how far the log has come."""

import asyncio
from collections.abc import Callable

import structlog

from kakuremichi.audit.merkle import Frontier, consistency_proof, root_of, subtree_by_runs
from kakuremichi.model.ids import NodeId
from kakuremichi.runtime.backoff import around
from kakuremichi.wire import signing
from kakuremichi.wire.checkpoints import (
    CHECKPOINT,
    WITNESS,
    AskCheckpoint,
    Checkpoint,
    CheckpointRefused,
    NewestCheckpoint,
)
from kakuremichi.wire.codec import WireError, decode, encode
from kakuremichi.wire.identity import Certificate
from kakuremichi.wire.signing import Signature, SignatureRefusedError, Signed
from kakuremichi.wire.subjects import node_of
from kakuremichi_registry.database import Database, DatabaseUnavailableError
from kakuremichi_registry.store import checkpoints as store
from kakuremichi_registry.store.nodes import certificate_of
from kakuremichi_registry.trust import Trust

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 5.0
EVERY_S = 60.0
EVERY_ROWS = 1000
AT_ONCE = 16  # runs whose hashes are read with one statement


class Checkpoints:
    """Made by the process that leads; asked for by gateways, which sign them too."""

    def __init__(self, database: Database, trust: Trust, *, every_s: float = EVERY_S) -> None:
        self._database, self._trust, self._every_s = database, trust, every_s
        self._runs: list[bytes] = []  # roots of whole runs, from the first on
        self._growing = asyncio.Lock()

    async def run(self, stop: asyncio.Event, leading: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                async with asyncio.timeout(around(min(LOOK_EVERY_S, self._every_s))):
                    await stop.wait()
            except TimeoutError:
                if leading.is_set():
                    await self._look()

    async def _look(self) -> None:
        try:
            head = await store.head(self._database)
            if head is None or head.seq == head.size:
                return
            if head.age_s >= self._every_s or head.seq - head.size >= EVERY_ROWS:
                await self.make()
        except DatabaseUnavailableError as error:
            log.info("no checkpoint", reason=str(error))

    async def make(self) -> int:
        """Sign the log as it is now; how many rows that are, 0 while there are none."""
        head = await store.head(self._database)
        if head is None:
            return 0
        if head.seq > head.size:
            root = await self._root(head.seq)
            body = Checkpoint(log_id=head.log_id, size=head.seq, root=root, hash=head.hash, at=head.at)
            signed = signing.sign(CHECKPOINT, self._trust.deployment, encode(body), self._trust.feed_key)
            await store.keep(self._database, head.seq, signed)
            log.info("checkpoint", size=head.seq, root=root.hex())
        return head.seq

    async def _root(self, size: int) -> bytes:
        await self._know_runs(size)
        whole = min(len(self._runs), size // store.RUN)
        frontier = Frontier()
        for root in self._runs[:whole]:
            frontier.append_subtree(store.RUN, root)
        for entry in await store.hashes(self._database, whole * store.RUN, size):
            frontier.append(entry)
        return frontier.root()

    async def _know_runs(self, size: int) -> None:
        """Read the roots of whole runs that were kept, and make and keep those that are new."""
        async with self._growing:
            if len(self._runs) < size // store.RUN:
                self._runs += await store.runs(self._database, len(self._runs))
            await self._make_runs(size)

    async def _make_runs(self, size: int) -> None:
        while (missing := size // store.RUN - len(self._runs)) > 0:
            first = len(self._runs)
            until = (first + min(missing, AT_ONCE)) * store.RUN
            entries = await store.hashes(self._database, first * store.RUN, until)
            for number in range(first, until // store.RUN):
                run = entries[(number - first) * store.RUN : (number - first + 1) * store.RUN]
                self._runs.append(await asyncio.to_thread(root_of, run))
                await store.keep_run(self._database, number, self._runs[number])

    async def answer(self, subject: str, asked: AskCheckpoint) -> NewestCheckpoint | CheckpointRefused:
        """The newest checkpoint for the gateway that the subject names; its own signature is taken on the way."""
        node = node_of(subject)
        try:
            certificate = await certificate_of(self._database, node)
            if certificate is None or decode(certificate.body, Certificate).role != "gateway":
                return CheckpointRefused(code="unknown-node", detail=f"node {node}: is no gateway that is enrolled")
            if asked.signature is not None:
                await self._take(node, certificate, asked, asked.signature)
            return await self._newest(asked)
        except DatabaseUnavailableError as error:
            return CheckpointRefused(code="unavailable", detail=str(error))

    @staticmethod
    def refuse(error: WireError) -> CheckpointRefused:
        return CheckpointRefused(code="malformed", detail=str(error))

    async def _take(self, node: NodeId, certificate: Signed, asked: AskCheckpoint, signature: Signature) -> None:
        """Keep the gateway's signature, if it is one for a checkpoint of ours. What is none changes no answer."""
        signed = await store.of_size(self._database, asked.size)
        if signed is None:
            return
        key = decode(certificate.body, Certificate).identity_key
        try:
            signing.verify(WITNESS, self._trust.deployment, Signed(signed.body, (signature,)), {key})
        except SignatureRefusedError as error:
            log.warning("witness refused", node=node, size=asked.size, reason=str(error))
            return
        await store.keep_witness(self._database, asked.size, node, certificate, signature)

    async def _newest(self, asked: AskCheckpoint) -> NewestCheckpoint | CheckpointRefused:
        newest = await store.newest(self._database)
        if newest is None:
            return CheckpointRefused(code="none-yet", detail="checkpoint: there is none yet; ask again in a minute")
        proof: tuple[bytes, ...] = ()
        if 0 < asked.size < newest.size:
            proof = await self._proof(asked.size, newest.size)
        return NewestCheckpoint(feed_key=self._trust.feed_certificate, checkpoint=newest.signed, proof=proof)

    async def _proof(self, small: int, large: int) -> tuple[bytes, ...]:
        await self._know_runs(large)
        entries: dict[int, bytes] = {}
        for number in {(small - 1) // store.RUN, small // store.RUN, (large - 1) // store.RUN}:
            first = number * store.RUN
            found = await store.hashes(self._database, first, min(first + store.RUN, large))
            entries |= dict(enumerate(found, first))
        by_runs: Callable[[int], bytes] = self._runs.__getitem__
        return consistency_proof(small, large, subtree_by_runs(store.RUN, by_runs, entries.__getitem__))
