"""A gateway that is only a witness of the log, on whatever bus."""

from pathlib import Path

from kakuremichi.bus.port import Bus
from kakuremichi.node.state import Enrolment, NodeState
from kakuremichi.node.witnessing import Witness
from kakuremichi.runtime.files import write_atomically
from kakuremichi.wire.enrolment import BusAccess, EnrolmentAnswer
from support.real_registry import Enrollee


class Gateway:
    """`warnings` are what the node's report would say, by topic."""

    def __init__(self, node: Enrollee, bus: Bus, folder: Path) -> None:
        self.warnings: dict[str, str] = {}
        self.state = NodeState(folder)
        self.state.open()
        write_atomically(folder / "identity.seed", bytes(node.identity).hex().encode())
        given = node.enrolled
        answer = EnrolmentAnswer(
            deployment=given.deployment, certificate=given.certificate, trust=given.trust, feed_key=given.feed_key,
            endpoints=(), bus=BusAccess(url="", jwt=""),
        )  # fmt: skip
        self.witness = Witness(bus, self.state, Enrolment(answer), self.warnings.__setitem__, every_s=0.05)
