"""The tree over the log: the vectors of RFC 6962's own tests, and proofs that show what they say and nothing else."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.audit.merkle import (
    EMPTY,
    Frontier,
    ProofError,
    consistency_proof,
    inner,
    leaf,
    root_of,
    subtree_by_runs,
    subtree_of,
    verify_consistency,
)

ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
sizes = st.integers(1, 80)


def entries_of(count: int) -> list[bytes]:
    return [hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(count)]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_the_vectors(size: int) -> None:
    assert root_of(ENTRIES[:size]).hex() == ROOTS[size]


def test_an_empty_tree_has_the_hash_of_nothing() -> None:
    assert Frontier().root() == EMPTY == hashlib.sha256().digest()


@given(st.integers(0, 80))
def test_the_frontier_gives_the_root_that_halving_gives(size: int) -> None:
    def by_definition(entries: list[bytes]) -> bytes:
        if len(entries) < 2:
            return leaf(entries[0]) if entries else EMPTY
        split = 1 << ((len(entries) - 1).bit_length() - 1)
        return inner(by_definition(entries[:split]), by_definition(entries[split:]))

    assert root_of(entries_of(size)) == by_definition(entries_of(size))


@given(sizes, sizes)
def test_a_true_proof_is_believed(one: int, other: int) -> None:
    small, large = sorted((one, other))
    entries = entries_of(large)
    proof = consistency_proof(small, large, subtree_of(entries))
    verify_consistency(small, root_of(entries[:small]), large, root_of(entries), proof)


@given(sizes, sizes, st.data())
def test_a_log_that_was_changed_has_no_proof(one: int, other: int, data: st.DataObject) -> None:
    """Whichever of the rows that were there before was changed: no honest proof, old or new, is believed."""
    small, large = sorted((one, other))
    before = entries_of(large)
    after = list(before)
    after[data.draw(st.integers(0, small - 1))] = b"x" * 32
    for entries in (before, after):
        proof = consistency_proof(small, large, subtree_of(entries))
        with pytest.raises(ProofError):
            verify_consistency(small, root_of(before[:small]), large, root_of(after), proof)


@given(st.integers(2, 80), st.data())
def test_a_damaged_proof_is_refused(large: int, data: st.DataObject) -> None:
    entries = entries_of(large)
    small = data.draw(st.integers(1, large - 1))
    proof = list(consistency_proof(small, large, subtree_of(entries)))
    place = data.draw(st.integers(0, len(proof) - 1))
    damaged = data.draw(
        st.sampled_from([
            [*proof[:place], b"y" * 32, *proof[place + 1 :]],
            [*proof[:place], *proof[place + 1 :]],
            [*proof, proof[place]],
            [],
        ])
    )  # fmt: skip
    with pytest.raises(ProofError):
        verify_consistency(small, root_of(entries[:small]), large, root_of(entries), damaged)


def test_a_shorter_log_is_refused() -> None:
    entries = entries_of(5)
    with pytest.raises(ProofError, match="shorter"):
        verify_consistency(5, root_of(entries), 4, root_of(entries[:4]), ())


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([1, 2, 4, 8, 16]))
def test_known_runs_give_the_same_proof_and_need_few_single_rows(one: int, other: int, width: int) -> None:
    small, large = sorted((one, other))
    entries = entries_of(large)
    asked: set[int] = set()

    def entry(place: int) -> bytes:
        asked.add(place // width)
        return entries[place]

    subtree = subtree_by_runs(width, lambda number: root_of(entries[number * width : (number + 1) * width]), entry)
    assert consistency_proof(small, large, subtree) == consistency_proof(small, large, subtree_of(entries))
    assert asked <= {(small - 1) // width, small // width, (large - 1) // width}, "rows of other runs than those two"


@given(st.integers(0, 60), st.integers(0, 3))
def test_whole_runs_are_appended_at_once(runs: int, power: int) -> None:
    width = 1 << power
    entries, frontier = entries_of(runs * width), Frontier()
    for number in range(runs):
        frontier.append_subtree(width, root_of(entries[number * width : (number + 1) * width]))
    assert frontier.root() == root_of(entries)
