"""A witness signs what continues the log, and nothing else."""

import pytest
from nacl.signing import SigningKey

from kakuremichi.audit.merkle import consistency_proof, root_of, subtree_of
from kakuremichi.audit.seals import AuthorityError
from kakuremichi.audit.witness import ForkError, judge
from kakuremichi.wire import signing
from kakuremichi.wire.checkpoints import CHECKPOINT, Checkpoint, NewestCheckpoint
from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.identity import FeedKeyCertificate, TrustSet
from kakuremichi.wire.signing import Signed, sign, verify_key
from support.exports import DEPLOYMENT, FEED_KEY, TRUST_KEY, chained, every_kind, rechained

ROWS = chained(every_kind())
OTHER = rechained([row if row.seq != 4 else row._replace(actor="nobody") for row in ROWS])
MEMBERS = TrustSet(version=1, keys=(verify_key(TRUST_KEY),), threshold=1)


def feed_key(key: SigningKey = FEED_KEY, by: SigningKey = TRUST_KEY) -> Signed:
    body = FeedKeyCertificate(key=verify_key(key), serial=1, not_before=0, not_after=2**31)
    return sign(signing.FEED_KEY, DEPLOYMENT, encode(body), by)


def checkpoint(size: int, rows: list = ROWS, *, log_id: str = "log") -> Checkpoint:  # type: ignore[type-arg]
    root = root_of(row.hash for row in rows[:size])
    return Checkpoint(log_id=log_id, size=size, root=root, hash=rows[size - 1].hash, at=rows[size - 1].at)


def answer(made: Checkpoint, since: int = 0, rows: list = ROWS, *, by: SigningKey = FEED_KEY) -> NewestCheckpoint:  # type: ignore[type-arg]
    entries = [row.hash for row in rows[: made.size]]
    proof = consistency_proof(since, made.size, subtree_of(entries)) if 0 < since < made.size else ()
    return NewestCheckpoint(
        feed_key=feed_key(), checkpoint=sign(CHECKPOINT, DEPLOYMENT, encode(made), by), proof=proof
    )  # fmt: skip


def test_the_first_checkpoint_is_believed_and_each_that_continues_it() -> None:
    assert judge(None, answer(checkpoint(3)), DEPLOYMENT, MEMBERS) == checkpoint(3)
    for size in range(3, 15):
        assert judge(checkpoint(3), answer(checkpoint(size), 3), DEPLOYMENT, MEMBERS) == checkpoint(size)


@pytest.mark.parametrize("size", [6, 7, 12])
def test_a_log_that_was_written_anew_is_refused_whatever_the_proof(size: int) -> None:
    for proof_of in (ROWS, OTHER):
        told = answer(checkpoint(size, OTHER), 6, proof_of)
        with pytest.raises(ForkError):
            judge(checkpoint(6), told, DEPLOYMENT, MEMBERS)


def test_a_log_that_became_shorter_or_another_one_is_refused() -> None:
    with pytest.raises(ForkError, match="shorter"):
        judge(checkpoint(8), answer(checkpoint(5)), DEPLOYMENT, MEMBERS)
    with pytest.raises(ForkError, match="not the one"):
        judge(checkpoint(3), answer(checkpoint(5, log_id="new"), 3), DEPLOYMENT, MEMBERS)


def test_what_the_feed_key_did_not_sign_is_no_fork_but_noise() -> None:
    stranger = SigningKey(b"x" * 32)
    with pytest.raises(AuthorityError):
        judge(checkpoint(8), answer(checkpoint(5), by=stranger), DEPLOYMENT, MEMBERS)
    told = answer(checkpoint(5), by=stranger)
    forged = NewestCheckpoint(feed_key=feed_key(stranger, stranger), checkpoint=told.checkpoint, proof=())
    with pytest.raises(AuthorityError, match="feed key"):
        judge(None, forged, DEPLOYMENT, MEMBERS)


def test_the_messages_read_back() -> None:
    told = answer(checkpoint(5), 3)
    assert decode(encode(told), NewestCheckpoint) == told
