"""How far each peer's key has come, and what is revoked: what neither a feed nor a restart may take back. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec import Struct

from kakuremichi.model.ids import NodeId, NodeIdField
from kakuremichi.model.keys import PublicKey, PublicKeyField
from kakuremichi.wire.identity import Announcement
from kakuremichi.wire.records import Revocation


class Accepted(Struct, frozen=True, kw_only=True, array_like=True, tag="accepted.v1"):
    """The newest key that was taken from a node."""

    node_id: NodeIdField
    epoch: int
    public_key: PublicKeyField


Step = Accepted | Revocation


@dataclass
class Epochs:
    """`unsaved` holds what has changed since it was last taken, in order; who keeps it on disk empties it."""

    accepted: dict[NodeId, tuple[int, PublicKey]] = field(default_factory=dict)
    revoked: dict[NodeId, int] = field(default_factory=dict)  # node → epoch up to which its keys are worth nothing
    unsaved: list[Step] = field(default_factory=list)

    def refusal(self, said: Announcement) -> str:
        """Why this announcement may not be taken, or ""."""
        epoch, key = self.accepted.get(said.node_id, (0, said.public_key))
        if said.epoch < epoch or (said.epoch == epoch and said.public_key != key):
            return f"epoch {said.epoch} does not follow {epoch}"
        if said.epoch <= self.revoked.get(said.node_id, 0):
            return f"epoch {said.epoch} is revoked"
        return ""

    def is_current(self, said: Announcement) -> bool:
        """Whether this very key was taken before, in this life or an earlier one."""
        return self.accepted.get(said.node_id) == (said.epoch, said.public_key)

    def accept(self, said: Announcement) -> None:
        if not self.is_current(said):
            self._note(Accepted(node_id=said.node_id, epoch=said.epoch, public_key=said.public_key))

    def revoke(self, record: Revocation) -> None:
        if record.epoch > self.revoked.get(record.node_id, 0):
            self._note(Revocation(node_id=record.node_id, epoch=record.epoch))

    def replay(self, steps: Iterable[Step]) -> None:
        """Take what was kept on disk; a step that is older than what is known changes nothing."""
        for step in steps:
            known = self.accepted.get(step.node_id)
            if isinstance(step, Revocation):
                self.revoked[step.node_id] = max(step.epoch, self.revoked.get(step.node_id, 0))
            elif known is None or step.epoch > known[0]:
                self.accepted[step.node_id] = (step.epoch, step.public_key)

    def everything(self) -> list[Step]:
        """The fewest steps that lead here."""
        steps: list[Step] = [
            Accepted(node_id=node, epoch=epoch, public_key=key) for node, (epoch, key) in self.accepted.items()
        ]
        return steps + [Revocation(node_id=node, epoch=epoch) for node, epoch in self.revoked.items()]

    def _note(self, step: Step) -> None:
        self.replay((step,))
        self.unsaved.append(step)
