import pytest

from kakuremichi.dataplane.haproxy.client import ProxyError
from kakuremichi.dataplane.haproxy.stats import BackendStat, Counters, Ledger, ServerHealth, activity, parse_stats
from kakuremichi.model.ids import ServiceId

A, B = ServiceId("a"), ServiceId("b")
HEAD = (
    "# pxname,svname,scur,stot,bin,bout,econ,eresp,wretr,wredis,status,weight,"
    "hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,dreq,rate,\n"
)


def stat(requests: int) -> BackendStat:
    return BackendStat(Counters(requests=requests, bytes_in=requests * 10))


def test_backends_and_their_servers_are_read_by_column_name() -> None:
    rows = (
        "p3,t1,2,9,1,2,0,0,0,0,no check,100,0,9,0,0,0,0,0,\n"
        "p3,BACKEND,2,9,10,20,1,2,3,4,UP,100,0,5,1,2,1,6,7,\n"
        "own,BACKEND,0,1,1,1,0,0,0,0,UP,1,,,,,,,,\n"
    )

    stats = parse_stats(HEAD + rows)

    assert list(stats) == [3]
    assert stats[3].counters == Counters(9, 10, 20, 0, 5, 1, 2, 1, 1, 2, 3, 4, 6)
    assert stats[3].rate == 7
    assert stats[3].servers == {"t1": ServerHealth("no check", 2, 100)}
    with pytest.raises(ProxyError, match="show stat"):
        parse_stats("Permission denied")


def test_totals_go_on_over_a_restart_of_haproxy() -> None:
    ledger = Ledger()
    ledger.update({1: {0: stat(5)}}, {0: A})  # what was before us is not ours to claim

    assert ledger.update({1: {0: stat(8)}}, {0: A})[A].requests == 3
    assert ledger.update({2: {0: stat(2)}}, {0: A})[A].requests == 5
    assert ledger.update({}, {0: A})[A].requests == 5
    assert ledger.update({2: {0: stat(1)}}, {0: A})[A].requests == 6  # the same process id again


def test_a_worker_that_was_replaced_counts_on_until_it_ends() -> None:
    ledger = Ledger()
    ledger.update({1: {0: stat(5)}}, {0: A})

    assert ledger.update({1: {0: stat(7)}, 2: {0: stat(3)}}, {0: A})[A].requests == 5
    assert ledger.update({1: {0: stat(8)}, 2: {0: stat(4)}}, {0: A})[A].requests == 7
    assert ledger.update({2: {0: stat(5)}}, {0: A})[A].requests == 8


def test_a_new_owner_of_a_backend_does_not_inherit_its_counters() -> None:
    ledger = Ledger()
    ledger.update({1: {0: stat(5)}}, {0: A})

    assert ledger.update({1: {0: stat(50)}}, {0: B}) == {B: Counters()}
    assert ledger.update({1: {0: stat(51)}}, {0: B})[B].requests == 1


def test_a_backend_that_nobody_had_for_a_while_belongs_to_its_new_owner_from_then_on() -> None:
    ledger = Ledger()
    ledger.update({1: {0: stat(5)}}, {0: A})
    ledger.update({1: {0: stat(6)}}, {})

    assert ledger.update({1: {0: stat(9)}}, {0: B})[B].requests == 3


def test_a_service_that_is_published_after_the_first_reading_is_counted_from_its_first_request() -> None:
    ledger = Ledger()
    ledger.update({1: {0: stat(0)}}, {})

    assert ledger.update({1: {0: stat(4)}}, {0: A})[A].requests == 4


def test_sessions_and_rates_of_all_workers_count() -> None:
    workers = {1: {0: BackendStat(sessions=2, rate=1)}, 2: {0: BackendStat(sessions=3), 5: BackendStat(sessions=9)}}

    assert activity(workers, {0: A, 1: B}) == {A: (5, 1), B: (0, 0)}
