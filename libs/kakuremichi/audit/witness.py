"""What a witness does before it signs: the new checkpoint has to continue the one that it saw before. Pure."""

from kakuremichi.audit.merkle import ProofError, verify_consistency
from kakuremichi.audit.seals import checkpoint_of, feed_key_of
from kakuremichi.wire.checkpoints import Checkpoint, NewestCheckpoint
from kakuremichi.wire.identity import TrustSet
from kakuremichi.wire.signing import DeploymentId


class ForkError(ValueError):
    """The feed key has signed two histories, or takes something back that it had signed; a sentence."""


def judge(held: Checkpoint | None, answer: NewestCheckpoint, deployment: DeploymentId, members: TrustSet) -> Checkpoint:
    """The new checkpoint, if it may be signed.

    :class:`ForkError` if it does not continue `held`; :class:`kakuremichi.audit.seals.AuthorityError` if the feed key
    did not sign it, which says nothing about the log: anybody can send that.
    """
    fresh = checkpoint_of(answer.checkpoint, deployment, feed_key_of(answer.feed_key, deployment, members))
    if held is None:
        return fresh
    if fresh.log_id != held.log_id:
        raise ForkError(f"log {fresh.log_id}: is not the one that was seen before, {held.log_id}")
    try:
        verify_consistency(held.size, held.root, fresh.size, fresh.root, answer.proof)
    except ProofError as error:
        raise ForkError(str(error)) from error
    return fresh
