"""Which peers no longer answer, from what the WireGuard engine counts. Pure.

WireGuard tells nobody that its handshakes fail. But an engine that got a packet says something within 10 s, if only
an empty packet; so a peer to which something was sent and from which nothing came for longer knows us no more,
or is not there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from kakuremichi.dataplane.wireguard.diff import PeerState
from kakuremichi.model.keys import PublicKey

FRESH_S = 10.0  # a peer that never answered: its handshakes fail
SILENT_S = 15.0  # a peer that did: the 10 s of WireGuard's passive keepalive and a lost packet
PAUSES_S = (3.0, 6.0, 12.0, 24.0, 48.0, 60.0)  # between attempts; five in the first minute


@dataclass(slots=True)
class _Watched:
    heard_bytes: int
    since: float  # when the last packet was noticed, or the peer first seen
    attempts: int = 0
    not_before: float = 0.0


class Silence:
    """Remembers each peer from look to look. All times are of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._watched: dict[PublicKey, _Watched] = {}
        self.silent: frozenset[PublicKey] = frozenset()  # all that are, as of the last look

    def look(self, now: float, states: Mapping[PublicKey, PeerState]) -> list[PublicKey]:
        """The silent peers that are due for an attempt; each is then left alone for a growing pause."""
        self._watched = {key: self._seen(now, key, state) for key, state in states.items()}
        self.silent = frozenset(key for key, state in states.items() if self._is_silent(now, key, state))
        return [key for key in states if key in self.silent and self._is_due(now, self._watched[key])]

    def _seen(self, now: float, key: PublicKey, state: PeerState) -> _Watched:
        watched = self._watched.get(key)
        if watched is None or state.rx_bytes > watched.heard_bytes:
            return _Watched(state.rx_bytes, now)
        watched.heard_bytes = state.rx_bytes  # less than before: the peer was set anew, which is no sign of life
        return watched

    def _is_silent(self, now: float, key: PublicKey, state: PeerState) -> bool:
        patience = FRESH_S if state.last_handshake is None else SILENT_S
        return now - self._watched[key].since >= patience

    def _is_due(self, now: float, watched: _Watched) -> bool:
        if now < watched.not_before:
            return False
        pause = PAUSES_S[min(watched.attempts, len(PAUSES_S) - 1)]
        watched.attempts += 1
        watched.not_before = now + pause
        return True
