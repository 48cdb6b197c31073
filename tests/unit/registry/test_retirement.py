"""Which partitions may leave, and the sentence for each reason that none may."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi_registry.retirement import Partition, RetireError, Seen, choose, kept_back

PARTS = tuple(Partition(f"event_log_{first}", first, first + 99) for first in (101, 201, 301, 401))


def seen(*, cut: int = 100, last: int = 350, relayed: int = 350, covered: int = 350) -> Seen:
    return Seen(PARTS, cut, last, relayed, covered)


def test_all_that_lie_before_the_row_leave_and_the_newest_stays() -> None:
    assert choose(seen(), before=1000, witnesses=1) == PARTS[:2]
    assert choose(seen(), before=301, witnesses=1) == PARTS[:2]
    assert choose(seen(), before=300, witnesses=1) == PARTS[:1]


def test_those_that_are_not_vouched_for_stay_behind_and_are_named() -> None:
    chosen = choose(seen(covered=299), before=1000, witnesses=1)
    assert chosen == PARTS[:1]
    assert kept_back(seen(covered=299), chosen, before=1000) == PARTS[1:2]


@pytest.mark.parametrize(
    ("looked", "before", "word"),
    [
        (seen(), 101, "have left already"),
        (seen(), 150, "the first moment that retires anything is row 201"),
        (seen(last=200), 201, "is the newest partition"),
        (seen(covered=199), 301, "no checkpoint of 200 rows or more"),
        (seen(relayed=199), 301, "the stream AUDIT has stored rows up to 199"),
    ],
)
def test_a_refusal_names_its_reason(looked: Seen, before: int, word: str) -> None:
    with pytest.raises(RetireError, match=word):
        choose(looked, before=before, witnesses=1)


@given(st.integers(0, 600), st.integers(100, 600), st.integers(0, 600), st.integers(0, 600))
def test_what_leaves_is_always_covered_stored_old_and_whole(before: int, last: int, relayed: int, covered: int) -> None:
    try:
        chosen = choose(seen(last=last, relayed=relayed, covered=covered), before=before, witnesses=1)
    except RetireError:
        return
    assert chosen == PARTS[: len(chosen)]
    assert chosen[-1].last < min(before, last)
    assert chosen[-1].last <= min(relayed, covered)
