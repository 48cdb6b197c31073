"""A peer that does not answer is noticed in time, asked with growing pauses, and left alone once it is heard."""

from itertools import pairwise

from kakuremichi.dataplane.wireguard.desired import Peer
from kakuremichi.dataplane.wireguard.diff import PeerState
from kakuremichi.model.keys import PrivateKey
from kakuremichi.node.silence import FRESH_S, SILENT_S, Silence

KEY = PrivateKey(b"k" * 32).public()


def state(rx_bytes: int = 0, handshake: float | None = 1.0) -> PeerState:
    return PeerState(Peer(KEY, frozenset()), handshake, rx_bytes)


def due(silence: Silence, until: int, *, handshake: float | None, since: int = 0) -> list[int]:
    """The seconds at which an attempt was due, looked at every second without anything coming in."""
    return [second for second in range(since, until) if silence.look(second, {KEY: state(0, handshake)})]


def test_a_peer_that_never_answered_is_asked_after_ten_seconds() -> None:
    assert due(Silence(), 12, handshake=None) == [FRESH_S]


def test_a_peer_that_did_answer_is_given_the_time_of_a_passive_keepalive() -> None:
    assert due(Silence(), 17, handshake=1.0) == [SILENT_S]


def test_at_most_five_attempts_fall_into_any_minute() -> None:
    attempts = due(Silence(), 600, handshake=None)

    assert attempts[:5] == [10, 13, 19, 31, 55]
    assert all(len([at for at in attempts if start <= at < start + 60]) <= 5 for start in range(600))
    assert max(later - earlier for earlier, later in pairwise(attempts)) == 60


def test_whoever_is_heard_is_left_alone_and_begins_anew() -> None:
    silence = Silence()
    due(silence, 40, handshake=1.0)

    assert not any(silence.look(40 + second, {KEY: state(second)}) for second in range(100))
    assert silence.look(140 + SILENT_S, {KEY: state(99)}) == [KEY]


def test_a_peer_that_was_set_anew_has_not_been_heard_by_that() -> None:
    silence = Silence()
    silence.look(0, {KEY: state(500)})

    assert silence.look(5, {KEY: state(0, None)}) == []
    assert silence.look(FRESH_S, {KEY: state(0, None)}) == [KEY]
    assert silence.silent == {KEY}


def test_a_peer_that_is_gone_or_has_another_key_is_forgotten() -> None:
    silence = Silence()
    due(silence, 9, handshake=None)
    silence.look(9, {})

    assert due(silence, 19, handshake=None, since=10) == []
