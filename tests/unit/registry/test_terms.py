"""Terms of a write: expected states and sources."""

import pytest
from msgspec import UNSET, UnsetType

from kakuremichi.model.ids import PoolName, ServiceId
from kakuremichi.wire.commands import Terms, UnpublishService
from kakuremichi_registry.contexts import ServiceRow
from kakuremichi_registry.refusal import Refusal
from kakuremichi_registry.terms import check_match, is_dry_run, source_after

WIKI = ServiceId("wiki")


def on(terms: Terms | UnsetType) -> UnpublishService:
    return UnpublishService(actor="ann", service_id=WIKI, terms=terms)


def row(source: str) -> ServiceRow:
    return ServiceRow(
        service_id=WIKI, pool=PoolName("main"), kind="tcp", host="", path="", first_port=1, last_port=1, sources=(),
        updated_seq=17, source=source,
    )  # fmt: skip


def test_who_says_nothing_writes_for_good_over_any_state() -> None:
    assert not is_dry_run(on(UNSET))
    check_match(on(UNSET), "service wiki", 0)
    check_match(on(Terms()), "service wiki", 17)


@pytest.mark.parametrize(("wanted", "current"), [((17,), 17), ((1, 17), 17), ((0,), 17)])
def test_a_state_that_is_expected_is_let_through(wanted: tuple[int, ...], current: int) -> None:
    check_match(on(Terms(if_match=wanted)), "service wiki", current)


@pytest.mark.parametrize(("wanted", "current"), [((16,), 17), ((), 17), ((0,), 0), ((17,), 0), ((0, 17), 0)])
def test_another_is_refused_and_named(wanted: tuple[int, ...], current: int) -> None:
    with pytest.raises(Refusal) as caught:
        check_match(on(Terms(if_match=wanted)), "service wiki", current)
    problem = caught.value.problem
    assert (problem.status, problem.current_seq) == (412, current)
    assert ("does not exist" if current == 0 else "event 17") in problem.detail


@pytest.mark.parametrize(
    ("terms", "old", "source"),
    [
        (UNSET, None, ""),
        (UNSET, row("fleet"), "fleet"),
        (Terms(dry_run=True), row("fleet"), "fleet"),
        (Terms(source="fleet"), None, "fleet"),
        (Terms(source="fleet"), row("fleet"), "fleet"),
        (Terms(source="fleet", adopt=""), row(""), "fleet"),
        (Terms(source="fleet", adopt="other"), row("other"), "fleet"),
        (Terms(source="fleet", adopt="other"), row("fleet"), "fleet"),
    ],
)
def test_whose_a_service_is_afterwards(terms: Terms | UnsetType, old: ServiceRow | None, source: str) -> None:
    assert source_after(on(terms), WIKI, old) == source


@pytest.mark.parametrize(
    ("terms", "old"),
    [
        (Terms(source="fleet"), row("")),
        (Terms(source="fleet"), row("other")),
        (Terms(source="fleet", adopt=""), row("other")),
        (Terms(source="fleet", adopt="other"), row("")),
    ],
)
def test_what_is_somebody_elses_is_refused(terms: Terms, old: ServiceRow) -> None:
    with pytest.raises(Refusal) as caught:
        source_after(on(terms), WIKI, old)
    assert (caught.value.problem.status, caught.value.problem.code) == (409, "owned")
