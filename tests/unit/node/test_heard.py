"""Where peers were last heard is kept on disk and given back to an engine that begins with nothing."""

from pathlib import Path

import pytest

from kakuremichi.dataplane.wireguard.desired import Peer
from kakuremichi.dataplane.wireguard.diff import PeerState
from kakuremichi.model.addresses import parse_endpoint
from kakuremichi.model.keys import PrivateKey
from kakuremichi.node import heard
from kakuremichi.node.heard import LastHeard

ONE, TWO = PrivateKey(b"1" * 32).public(), PrivateKey(b"2" * 32).public()
HOME, CAFE = parse_endpoint("203.0.113.11:4000"), parse_endpoint("[2001:db8::7]:5000")


def states(**handshakes: float | None) -> dict[bytes, PeerState]:
    known = {"one": (ONE, HOME), "two": (TWO, CAFE)}
    return {
        known[name][0]: PeerState(Peer(known[name][0], frozenset(), known[name][1]), at)
        for name, at in handshakes.items()
    }


async def test_a_fresh_engine_gets_back_where_each_peer_was(run_dir: Path) -> None:
    before = LastHeard(run_dir / "endpoints", fresh=True)
    before.look(states(one=10.0, two=11.0))  # type: ignore[arg-type]
    await before.save()

    again = LastHeard(run_dir / "endpoints", fresh=True)

    assert (again.endpoint(ONE), again.endpoint(TWO)) == (HOME, CAFE)
    assert (run_dir / "endpoints").stat().st_mode & 0o777 == 0o600


async def test_an_engine_that_lived_on_is_told_nothing(run_dir: Path) -> None:
    before = LastHeard(run_dir / "endpoints", fresh=True)
    before.look(states(one=10.0))  # type: ignore[arg-type]
    await before.save()

    assert LastHeard(run_dir / "endpoints", fresh=False).endpoint(ONE) is None


async def test_a_peer_not_heard_since_the_start_keeps_its_old_place_and_one_that_is_gone_loses_it(
    run_dir: Path,
) -> None:
    before = LastHeard(run_dir / "endpoints", fresh=True)
    before.look(states(one=10.0, two=11.0))  # type: ignore[arg-type]
    before.look(states(one=None))  # type: ignore[arg-type]
    await before.save()

    again = LastHeard(run_dir / "endpoints", fresh=True)

    assert (again.endpoint(ONE), again.endpoint(TWO)) == (HOME, None)


async def test_after_its_time_the_engine_is_right(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = LastHeard(run_dir / "endpoints", fresh=True)
    before.look(states(one=10.0))  # type: ignore[arg-type]
    await before.save()
    monkeypatch.setattr(heard, "GIVE_BACK_S", 0.0)

    assert LastHeard(run_dir / "endpoints", fresh=True).endpoint(ONE) is None


@pytest.mark.parametrize("damage", [b"", b"\x81", b"\x81\xc4\x01x\xa1y"])
def test_a_damaged_file_is_no_reason_to_stop(run_dir: Path, damage: bytes) -> None:
    (run_dir / "endpoints").write_bytes(damage)

    assert LastHeard(run_dir / "endpoints", fresh=True).endpoint(ONE) is None
