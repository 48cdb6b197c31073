"""What every write carries into the log, and what it brings back."""

import hashlib
from datetime import datetime
from typing import NamedTuple

import asyncpg
import msgspec

from kakuremichi.runtime.trace_context import current_traceparent
from kakuremichi.wire.codec import encode
from kakuremichi.wire.commands import Command
from kakuremichi.wire.facts import AnyFact


class Entry(NamedTuple):
    """As the database's type kk_entry takes it."""

    topic: str
    actor: str
    fact: str  # JSON
    traceparent: str
    idempotency_key: str = ""
    request_hash: bytes | None = None
    answer: bytes | None = None


class Written(NamedTuple):
    log_id: str
    seq: int
    feeds: tuple[str, ...]
    feed_seqs: tuple[int, ...]

    @classmethod
    def of(cls, row: asyncpg.Record) -> "Written":
        return cls(row["log_id"], row["seq"], tuple(row["feeds"]), tuple(row["feed_seqs"]))


def topic_of(fact: AnyFact) -> str:
    """The tag without its version, as one token of a subject: `node.enrolled.v1` is of topic `node-enrolled`."""
    return str(fact.__struct_config__.tag).rpartition(".v")[0].replace(".", "-")


def entry_of(fact: AnyFact, command: Command | None, *, actor: str = "", answer: bytes = b"") -> Entry:
    """The log entry of `fact`, asked for by `command` or done by `actor`."""
    key = command.idempotency_key if command is not None else ""
    return Entry(
        topic=topic_of(fact),
        actor=command.actor if command is not None else actor,
        fact=msgspec.json.encode(fact).decode(),
        traceparent=current_traceparent(),
        idempotency_key=key,
        request_hash=request_hash(command) if command is not None and key else None,
        answer=answer if key else None,
    )


def request_hash(command: Command) -> bytes:
    return hashlib.sha256(encode(command)).digest()


def text_of(at: datetime) -> str:
    """As the log's hash takes it: RFC 3339, UTC, microseconds."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
