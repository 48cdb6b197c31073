"""The highest epochs survive restarts and damage, so that an older key is never taken again."""

from pathlib import Path

import pytest

from kakuremichi.model.ids import NodeId
from kakuremichi.node.epoch_file import COMPACT_AFTER, EpochFile
from kakuremichi.wire.codec import decode
from kakuremichi.wire.identity import Announcement
from kakuremichi.wire.records import Revocation
from kakuremichi_gateway.model import GatewayModel
from support.feedmaker import verifier
from support.people import MAIN, Person

SITE_A = Person("site-a", subnet="10.1.0.0/24")


def said(epoch: int, person: Person = SITE_A) -> Announcement:
    return decode(person.announcement(epoch).body, Announcement)


def test_a_restarted_gateway_refuses_an_older_key_and_a_revoked_one(run_dir: Path) -> None:
    first = EpochFile(run_dir / "epochs")
    model = GatewayModel(verifier(), MAIN, epochs=first.epochs)
    model.take([(("agent-peer", "site-a"), SITE_A.agent_peer(7))])
    model.take([(("revocation", "site-b"), Revocation(node_id=NodeId("site-b"), epoch=9))])
    first.flush()

    again = GatewayModel(verifier(), MAIN, epochs=EpochFile(run_dir / "epochs").epochs)
    site_b = Person("site-b", subnet="10.2.0.0/24")
    errors = again.take(
        [(("agent-peer", "site-a"), SITE_A.agent_peer(6)), (("agent-peer", "site-b"), site_b.agent_peer(9))]
    ).errors

    assert "epoch 6 does not follow 7" in errors["agent-peer", "site-a"]
    assert "epoch 9 is revoked" in errors["agent-peer", "site-b"]
    assert not again.agents
    assert not again.take([(("agent-peer", "site-a"), SITE_A.agent_peer(7))]).errors


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_end_costs_only_the_last_step_and_nothing_that_follows(run_dir: Path, cut: int) -> None:
    path = run_dir / "epochs"
    file = EpochFile(path)
    file.epochs.accept(said(5))
    file.flush()
    whole = path.read_bytes()
    file.epochs.accept(said(6))
    file.flush()
    path.write_bytes(path.read_bytes()[: len(whole) + min(cut, len(whole) - 1)])

    again = EpochFile(path)
    assert again.epochs.accepted[SITE_A.node_id][0] == 5
    again.epochs.accept(said(7))
    again.flush()

    assert EpochFile(path).epochs.accepted[SITE_A.node_id][0] == 7
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_file_is_written_anew_when_most_of_it_is_history(run_dir: Path) -> None:
    path = run_dir / "epochs"
    file = EpochFile(path)
    for epoch in range(1, COMPACT_AFTER + 10):
        file.epochs.accept(said(epoch))
    file.flush()
    long = path.stat().st_size

    again = EpochFile(path)

    assert again.epochs.accepted == file.epochs.accepted
    assert path.stat().st_size < long / 100


def test_a_disk_that_refuses_costs_nothing_but_the_delay(run_dir: Path) -> None:
    folder = run_dir / "gone"
    file = EpochFile(folder / "epochs")
    file.epochs.accept(said(5))
    file.flush()
    assert file.epochs.unsaved

    folder.mkdir()
    file.flush()

    assert not file.epochs.unsaved
    assert EpochFile(folder / "epochs").epochs.accepted == file.epochs.accepted
