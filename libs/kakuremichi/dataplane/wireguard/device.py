"""What the reconciler needs of a WireGuard engine: kernel.py, userspace.py and, for tests, memory.py."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from kakuremichi.dataplane.wireguard.diff import PeerState, Step
from kakuremichi.model.keys import PrivateKey, PublicKey


class DeviceError(Exception):
    """The engine cannot be reached or refused what it was told; the message is a sentence that names the interface."""


@dataclass(frozen=True, slots=True)
class DeviceState:
    """`public_key` None: the engine has no private key yet, or does not tell (see `Device.has_key`)."""

    public_key: PublicKey | None
    listen_port: int
    peers: Mapping[PublicKey, PeerState]


@dataclass(frozen=True, slots=True)
class Outcome:
    step: Step
    error: str | None = None


class Device(Protocol):
    name: str

    async def read(self) -> DeviceState:
        """The engine's state without its private key, which is never looked at. Raises DeviceError."""

    async def has_key(self, public_key: PublicKey) -> bool:
        """Whether the engine's own key is the one of which this is the public half. Raises DeviceError."""

    async def configure(self, private_key: PrivateKey, listen_port: int | None) -> None:
        """Give the engine its key and UDP port (0: it chooses); the peers stay. Raises DeviceError.

        None leaves the port as it is. Naming the same one again is not that: engines then open another socket, and
        what waits in the old one is lost.
        """

    async def apply(self, steps: Sequence[Step]) -> tuple[Outcome, ...]:
        """Perform the steps in order, one outcome each. Safe to repeat; a refused step does not stop the others.

        Removing what is not there succeeds. A peer with the engine's own key is passed over in silence.
        """

    def close(self) -> None: ...


StepT = TypeVar("StepT", bound=Step)


async def apply_in_batches(
    batches: Sequence[Sequence[StepT]], send: Callable[[Sequence[StepT]], Awaitable[None]]
) -> tuple[Outcome, ...]:
    """Send each batch at once; one that is refused is sent again step by step, to learn which step was at fault.

    Engines stop at the first bad step and keep what came before it. Steps may be repeated, so nothing is lost.
    """
    outcomes: list[Outcome] = []
    for batch in batches:
        try:
            await send(batch)
        except DeviceError as error:
            if len(batch) == 1:
                outcomes.append(Outcome(batch[0], str(error)))
            else:
                outcomes += await apply_in_batches([[step] for step in batch], send)
        else:
            outcomes += [Outcome(step) for step in batch]
    return tuple(outcomes)
