"""What the reconciler needs of an interface: kernel.py has the real one, memory.py a fake that behaves like it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kakuremichi.dataplane.links.desired import LinkState
from kakuremichi.dataplane.links.diff import Step


class LinkError(Exception):
    """An interface cannot be read or made; the message is a sentence that names it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    step: Step
    error: str | None = None


class LinkDevice(Protocol):
    name: str

    async def read(self) -> LinkState:
        """The interface as it is: all its addresses, and of the routes only ours. Raises LinkError if it is gone."""

    async def apply(self, steps: Sequence[Step]) -> tuple[Outcome, ...]:
        """Perform the steps in order, one outcome each. Safe to repeat; a refused step does not stop the others."""
