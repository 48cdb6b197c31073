"""Checkpoints of the log: what the feed key says about its first rows, and what gateways answer as witnesses.

A gateway signs a checkpoint only after a proof that it continues the one which the gateway saw before. So a registry
that shows one history to one of them and another to the next, or cuts off an end that was told, is found out.
"""

from typing import Annotated

from msgspec import Meta, Struct

from kakuremichi.wire.identity import Hash, Strict
from kakuremichi.wire.requests import Answer, Request
from kakuremichi.wire.signing import Signature, Signed

CHECKPOINT = "checkpoint"  # purpose of the feed key's signature
WITNESS = "witness"  # purpose of a gateway's signature over the same body

MOST_PROOF = 128  # hashes; of a log of n rows there are at most 2 log2 n


class Checkpoint(Strict, frozen=True, kw_only=True, tag="checkpoint.v1"):
    log_id: str
    size: Annotated[int, Meta(ge=1)]  # rows
    root: Hash  # of the tree over them, see kakuremichi.audit.merkle
    hash: Hash  # of the last of them in the chain
    at: str  # of the last of them; RFC 3339, UTC, microseconds


class AskCheckpoint(Request, frozen=True, kw_only=True, tag="ask-checkpoint.v1"):
    """The newest checkpoint, please, and that it continues the one of `size` rows (0: I have seen none).

    `signature` is mine for that one, if I have not brought it yet.
    """

    log_id: str = ""
    size: Annotated[int, Meta(ge=0)] = 0
    signature: Signature | None = None


class NewestCheckpoint(Answer, frozen=True, kw_only=True, tag="newest-checkpoint.v1"):
    feed_key: Signed  # FeedKeyCertificate
    checkpoint: Signed  # Checkpoint
    proof: Annotated[tuple[Hash, ...], Meta(max_length=MOST_PROOF)]  # from the asker's size to this one's


class CheckpointRefused(Answer, frozen=True, kw_only=True, tag="checkpoint-refused.v1"):
    code: str  # malformed, unknown-node, unavailable, none-yet, unknown-size, unknown-log, bad-signature
    detail: str


class Cosignature(Struct, frozen=True, kw_only=True, array_like=True):
    """A gateway's signature over a checkpoint's body, and the certificate that says whose key it is."""

    certificate: Signed  # Certificate
    signature: Signature
