"""The fold and its canonical rows, without a database."""

import msgspec
import pytest

from kakuremichi.audit import rows
from kakuremichi.audit.fold import FOLDED, FoldError, fold
from kakuremichi.audit.state import State, digest, dump, load
from kakuremichi.model.options import NO_OPTIONS, Headers, Http, Limits, Options
from kakuremichi.wire import facts
from support.exports import chained, every_kind, published

HISTORY = chained(every_kind())


def state_after(seq: int) -> State:
    return fold(State(log_id="log"), HISTORY[:seq])


def test_every_fact_has_its_place_in_the_fold() -> None:
    assert set(facts.AnyFact.__args__) == FOLDED


def test_every_kind_of_row_has_a_key_and_a_line_that_reads_back() -> None:
    state = fold(State(), HISTORY)
    assert set(rows.AnyRow.__args__) == set(rows.KEYS)
    for line in state.lines():
        assert rows.canonical(rows.parse(line)) == line


def test_a_history_leaves_what_stands_in_the_tables() -> None:
    found = [line.decode() for line in state_after(10).lines()]
    assert '{"table":"freed_host","host":"wiki.example.com","service_id":"wiki"}' in found
    assert (
        '{"table":"service","service_id":"wiki","pool":"main","kind":"http","host":"docs.example.com","path":"",'
        '"first_port":0,"last_port":0,"sources":[],"options":{},"updated_seq":10}'
    ) in found
    assert (
        '{"table":"service_target","target_id":"wiki-1","service_id":"wiki","agent":"site-a","proto":"tcp",'
        '"agent_port":30000,"agent_last_port":30000,"address":"127.0.0.1","port":80}'
    ) in found
    assert found == sorted(found)


def test_a_revoked_agent_takes_its_targets_along_and_leaves_its_services() -> None:
    state = fold(State(), HISTORY)
    assert state.targets["wiki"] == ()
    assert state.services["wiki"].updated_seq == 17
    assert (state.nodes["site-a"].removed, state.nodes["site-a"].revoked) == (True, False)
    assert list(state.revoked) == [b"i" * 32]
    assert state.spent_serials["site-a"].serial == 2


def test_what_has_expired_is_no_part_of_the_state_any_more() -> None:
    state = fold(State(), HISTORY)
    tables = {rows.table_of(row) for row in state.rows()}
    assert {"join_token", "freed_host"} <= tables
    the_day_after = {rows.table_of(row) for row in state.rows("2026-01-03T05:00:00Z")}
    assert tables - the_day_after == {"join_token", "freed_host"}


@pytest.mark.parametrize("seq", range(len(HISTORY) + 1))
def test_a_snapshot_anywhere_leads_to_the_same_end(seq: int) -> None:
    there = state_after(seq)
    again = load(dump(there), log_id="log", seq=seq, digest_of_row=there.hash, at=there.at)
    assert dump(again) == dump(there)
    end = fold(again, HISTORY[seq:])
    assert dump(end) == dump(state_after(len(HISTORY)))
    assert digest(end.lines()) == digest(state_after(len(HISTORY)).lines())


def test_a_copy_goes_on_by_itself() -> None:
    first = state_after(8)
    before = dump(first)
    fold(first.copy(), HISTORY[8:])
    assert dump(first) == before


def test_a_row_that_is_missing_or_of_a_newer_release_is_named() -> None:
    with pytest.raises(FoldError, match="log row 3: 2 is missing before it"):
        fold(State(), [HISTORY[0], HISTORY[2]])
    with pytest.raises(FoldError, match=r"log row 1: .*newer release"):
        fold(State(), [HISTORY[0]._replace(fact='{"type":"moon.landed.v1"}')])
    with pytest.raises(FoldError, match=r"log row 1: .*'site-a'"):
        fold(State(), chained([facts.NodeReleased(node_id="site-a", role="agent", pool="main")]))  # type: ignore[arg-type]


def test_options_say_nothing_that_only_repeats_a_default() -> None:
    asked = Options(limits=Limits(rate=10), http=Http(request=Headers(set={"B": "1", "A": "2"}), pages={503: "x"}))
    said = {"http": {"pages": {"503": "x"}, "request": {"set": {"A": "2", "B": "1"}}}, "limits": {"rate": 10}}
    assert rows.options_of(asked) == said
    assert rows.options_of(msgspec.json.encode(asked).decode()) == said
    assert rows.options_of('{"http":{"request":{},"response":{}}}') == rows.options_of(NO_OPTIONS) == {}


def test_a_host_of_two_services_rests_only_when_both_are_gone() -> None:
    history = [
        published("one", "a.example.com", "site-a"), published("two", "a.example.com", "site-a"),
        facts.ServiceUnpublished(service_id="one", pool="main"),  # type: ignore[arg-type]
    ]  # fmt: skip
    state = fold(State(), chained(history))
    assert state.freed_hosts == {}
    gone = chained([facts.ServiceUnpublished(service_id="two", pool="main")], seq=3)  # type: ignore[arg-type]
    assert list(fold(state, gone).freed_hosts) == ["a.example.com"]
