"""A WireGuard engine in memory that behaves like the kernel's, for tests; it can be told to fail."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from kakuremichi.dataplane.wireguard.device import DeviceState, Outcome
from kakuremichi.dataplane.wireguard.diff import PeerState, RemovePeer, SetPeer, Step
from kakuremichi.model.addresses import Endpoint
from kakuremichi.model.keys import PrivateKey, PublicKey


class MemoryDevice:
    """`fail_at` numbers the steps (from 0, over all calls) that are refused; `applied` remembers every step.

    As in the engines: an allowed IP belongs to the peer that claimed it last, and a peer with our own key is ignored.
    """

    def __init__(self, name: str = "memory", fail_at: Iterable[int] = ()) -> None:
        self.name = name
        self.peers: dict[PublicKey, PeerState] = {}
        self.fail_at = frozenset(fail_at)
        self.applied: list[Step] = []
        self._public_key: PublicKey | None = None
        self._listen_port = 0

    async def read(self) -> DeviceState:
        return DeviceState(self._public_key, self._listen_port, dict(self.peers))

    async def has_key(self, public_key: PublicKey) -> bool:
        return self._public_key == public_key

    async def configure(self, private_key: PrivateKey, listen_port: int | None) -> None:
        self._public_key = private_key.public()
        self._listen_port = self._listen_port if listen_port is None else listen_port
        self.peers.pop(self._public_key, None)

    async def apply(self, steps: Sequence[Step]) -> tuple[Outcome, ...]:
        return tuple(self._apply(step) for step in steps)

    def close(self) -> None:
        """Nothing is held."""

    def hear(self, public_key: PublicKey, endpoint: Endpoint, handshake: float) -> None:
        """The peer was heard from `endpoint`: engines follow it there."""
        state = self.peers[public_key]
        self.peers[public_key] = replace(state, peer=replace(state.peer, endpoint=endpoint), last_handshake=handshake)

    def _apply(self, step: Step) -> Outcome:
        self.applied.append(step)
        if len(self.applied) - 1 in self.fail_at:
            return Outcome(step, f"interface {self.name}: no buffer space available")
        match step:
            case RemovePeer(key):
                self.peers.pop(key, None)
            case SetPeer(peer) if peer.public_key != self._public_key:
                self._set(step)
        return Outcome(step)

    def _set(self, step: SetPeer) -> None:
        peer = step.peer
        for key, other in self.peers.items():
            if key != peer.public_key:
                left = other.peer.allowed_ips - peer.allowed_ips
                self.peers[key] = replace(other, peer=replace(other.peer, allowed_ips=left))
        state = self.peers.get(peer.public_key, PeerState(replace(peer, endpoint=None)))
        endpoint = peer.endpoint or state.peer.endpoint
        self.peers[peer.public_key] = replace(state, peer=replace(peer, endpoint=endpoint))
