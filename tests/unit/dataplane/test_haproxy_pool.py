import pytest

from kakuremichi.dataplane.haproxy.pool import Pool, PoolExhaustedError
from kakuremichi.model.ids import ServiceId

A, B, C = ServiceId("a"), ServiceId("b"), ServiceId("c")


def test_a_service_keeps_its_number_and_a_freed_one_is_reused_last() -> None:
    pool = Pool(3)
    assert [pool.assign(A), pool.assign(B), pool.assign(A)] == [0, 1, 0]

    pool.release(0)

    assert [pool.assign(C), pool.assign(A)] == [2, 0]
    assert pool.owner(2) == C


def test_numbers_read_back_are_kept_and_of_two_owners_the_first_has_it() -> None:
    pool = Pool(2, {A: 1, B: 1, C: 5})

    assert (pool.number(A), pool.number(B), pool.number(C)) == (1, None, 5)
    assert pool.size == 8  # doubled until the highest number fits
    assert pool.assign(B) == 0


def test_a_pool_that_is_used_up_says_so_and_doubles() -> None:
    pool = Pool(1, {A: 0})
    with pytest.raises(PoolExhaustedError):
        pool.assign(B)

    pool.grow(2)

    assert pool.size == 4
    assert [pool.assign(B), pool.assign(C)] == [1, 2]
