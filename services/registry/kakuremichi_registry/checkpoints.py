"""Checkpoints: every so many rows, and every minute, the feed key signs how far the log has come."""

import asyncio

import structlog

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
from kakuremichi_registry.tree import LogTree, RowsMissingError
from kakuremichi_registry.trust import Trust

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 5.0
EVERY_S = 60.0
EVERY_ROWS = 1000


class Checkpoints:
    """Made by the process that leads; asked for by gateways, which sign them too."""

    def __init__(self, database: Database, trust: Trust, *, every_s: float = EVERY_S) -> None:
        self._database, self._trust, self._every_s = database, trust, every_s
        self._tree = LogTree(database)

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
        except (DatabaseUnavailableError, RowsMissingError) as error:
            log.info("no checkpoint", reason=str(error))

    async def make(self) -> int:
        """Sign the log as it is now; how many rows that are, 0 while there are none."""
        head = await store.head(self._database)
        if head is None:
            return 0
        if head.seq > head.size:
            root = await self._tree.root(head.seq)
            body = Checkpoint(log_id=head.log_id, size=head.seq, root=root, hash=head.hash, at=head.at)
            signed = signing.sign(CHECKPOINT, self._trust.deployment, encode(body), self._trust.feed_key)
            await store.keep(self._database, head.seq, signed)
            log.info("checkpoint", size=head.seq, root=root.hex())
        return head.seq

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
        except (DatabaseUnavailableError, RowsMissingError) as error:
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
            proof = await self._tree.proof(asked.size, newest.size)
        return NewestCheckpoint(feed_key=self._trust.feed_certificate, checkpoint=newest.signed, proof=proof)
