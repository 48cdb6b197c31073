"""The last-known-good: what was applied comes back, and damage never brings back anything else."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.bus.memory import MemoryNats
from kakuremichi.model.ids import NodeId
from kakuremichi.reconcile.follower import Follower
from kakuremichi.reconcile.holding import Holding
from kakuremichi.reconcile.journal import Base, Journal
from kakuremichi.wire.records import Gone
from support.feedmaker import FeedMaker, feed_key_certificate, verifier
from support.people import target_record

FEED = "feed.agent.a"


def base_of(maker: FeedMaker) -> Base:
    return Base(maker.head(), feed_key_certificate(), maker.page("", size=1000).items)


def written(directory: Path) -> FeedMaker:
    """A journal with a base of three records and a tail of two changes."""
    maker, journal = FeedMaker(feed=FEED), Journal(directory, FEED)
    for name in "abc":
        maker.write(target_record(name))
    journal.rewrite(base_of(maker))
    journal.append(maker.write(target_record("d")))
    journal.append(maker.write(Gone(kind="target", key="a")))
    journal.close()
    return maker


def loaded(directory: Path) -> Holding:
    bus, holding = MemoryNats().connect("reply.a"), Holding(FEED)
    Follower(bus, NodeId("a"), holding, verifier(), Journal(directory, FEED), lambda _applied: None).load()
    return holding


async def test_base_and_tail_come_back_as_they_were(tmp_path: Path) -> None:
    maker = written(tmp_path)

    holding = loaded(tmp_path)

    assert {key for key, _ in holding.records()} == {("target", name) for name in "bcd"}
    assert holding.cursor is not None
    assert holding.cursor.feed_seq == maker.seq == 5
    assert holding.total == maker.total


@pytest.mark.parametrize("name", [f"{FEED}.base", f"{FEED}.tail"])
async def test_a_file_cut_at_any_length_brings_back_a_prefix_of_the_truth(tmp_path: Path, name: str) -> None:
    written(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / name).write_bytes(whole[:length])

        keys = {key[1] for key, _ in loaded(tmp_path).records()}

        assert keys <= set("abcd")


@given(place=st.integers(0, 2000), bit=st.integers(0, 7))
async def test_a_flipped_bit_never_becomes_a_record(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    written(directory)
    path = directory / f"{FEED}.base"
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(bytes(data))

    for _, record in loaded(directory).records():
        assert record in [target_record(name) for name in "abcd"]


async def test_a_damaged_base_falls_back_to_the_one_before(tmp_path: Path) -> None:
    maker, journal = FeedMaker(feed=FEED), Journal(tmp_path, FEED)
    maker.write(target_record("a"))
    journal.rewrite(base_of(maker))
    maker.write(target_record("b"))
    journal.rewrite(base_of(maker))
    (tmp_path / f"{FEED}.base").write_bytes(b"junk")

    assert {key for key, _ in loaded(tmp_path).records()} == {("target", "a")}


async def test_files_are_for_the_node_alone(tmp_path: Path) -> None:
    written(tmp_path / "feeds")

    assert (tmp_path / "feeds").stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "feeds").iterdir())
