"""The chain of the log, as an auditor checks it: each row's hash covers the row and the hash before. Pure."""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from kakuremichi.wire.facts import LoggedFact
from kakuremichi.wire.identity import NO_HASH


class ChainError(ValueError):
    """The rows are not the log, or not all of it; a sentence that names the first row that does not fit."""


class LogRow(NamedTuple):
    seq: int
    prev: bytes
    hash: bytes
    topic: str
    actor: str
    at: str  # RFC 3339, UTC, microseconds
    fact: str  # JSON

    @classmethod
    def of(cls, logged: LoggedFact) -> "LogRow":
        """:class:`ValueError` if a hash is not hexadecimal."""
        prev, digest = bytes.fromhex(logged.prev), bytes.fromhex(logged.hash)
        return cls(logged.seq, prev, digest, logged.topic, logged.actor, logged.at, logged.fact)

    def logged(self, log_id: str) -> LoggedFact:
        """As `audit.<topic>` and exports carry it."""
        return LoggedFact(
            log_id=log_id, seq=self.seq, prev=self.prev.hex(), hash=self.hash.hex(), topic=self.topic,
            actor=self.actor, at=self.at, fact=self.fact,
        )  # fmt: skip


def row_hash(row: LogRow) -> bytes:
    """SHA-256(0x00, previous hash, u64 sequence, then topic, actor, time and fact, each after its u32 length)."""
    texts = b"".join(
        len(raw).to_bytes(4, "big") + raw
        for raw in (text.encode() for text in (row.topic, row.actor, row.at, row.fact))
    )
    return hashlib.sha256(b"\0" + row.prev + row.seq.to_bytes(8, "big") + texts).digest()


def verify_chain(rows: Iterable[LogRow], *, after: int = 0, hash_after: bytes = NO_HASH) -> tuple[int, bytes]:
    """Check the rows that follow sequence `after`; (sequence, hash) of the last one.

    :class:`ChainError` for the first that does not fit.
    """
    seq, digest = after, hash_after
    for row in rows:
        if row.seq != seq + 1:
            raise ChainError(f"log row {row.seq}: {seq + 1} is missing before it")
        if row.prev != digest:
            raise ChainError(f"log row {row.seq}: does not follow row {seq}")
        if row_hash(row) != row.hash:
            raise ChainError(f"log row {row.seq}: is not what was written")
        seq, digest = row.seq, row.hash
    return seq, digest
