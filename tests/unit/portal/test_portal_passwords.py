"""Passwords: what they cost, what a new one has to be, and that nobody can fill the queue."""

import asyncio
import re

import pytest

from kakuremichi_portal import passwords
from kakuremichi_portal.passwords import MOST_WAITING, Passwords, check_new
from kakuremichi_portal.problems import ProblemError


async def test_a_hash_is_argon2id_at_the_cost_that_rfc_9106_names() -> None:
    kept = await Passwords().hash("moss on a stone")
    found = re.fullmatch(r"\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$.+", kept)
    assert found
    assert tuple(map(int, found.groups())) == (65536, 3, 4)


async def test_no_password_is_right_where_none_is_kept_and_it_costs_the_same() -> None:
    asked: list[str] = []
    hasher, made = passwords._hasher, Passwords()

    class Watched:
        def verify(self, kept: str, given: str) -> bool:
            asked.append(kept.rpartition("$")[0].rpartition("$")[0])
            return hasher.verify(kept, given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_hasher", Watched())
        assert not await made.verify("", "moss on a stone")
        assert not await made.verify(hasher.hash("moss on a stone"), "something else")
    assert len(asked) == 2
    assert asked[0] == asked[1] != "", "the same work for both"


@pytest.mark.parametrize("kept", ["$argon2id$junk", "plain", "$2b$12$" + "x" * 53])
async def test_what_is_no_hash_opens_nothing(kept: str) -> None:
    assert not await Passwords().verify(kept, kept)


async def test_who_comes_when_too_many_wait_is_sent_away() -> None:
    made = Passwords()
    made._waiting = MOST_WAITING
    with pytest.raises(ProblemError) as refused:
        await made.verify("", "x")
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (503, "2")
    made._waiting = 0
    assert await asyncio.gather(*(made.verify("", "x") for _ in range(3))) == [False] * 3
    assert made._waiting == 0


@pytest.mark.parametrize("text", ["elevenchars", "x" * 300, "aaabbbaaabbb", "ann-smith and so on"])
def test_short_endless_and_easy_ones_are_refused(text: str) -> None:
    with pytest.raises(ProblemError) as refused:
        check_new(text, "ann-smith")
    assert (refused.value.status, refused.value.field) == (422, "password")


def test_twelve_characters_of_any_script_are_enough() -> None:
    check_new("隠れ道を歩いて山の奥まで行く", "ann")
