"""Which elements change, which of them belong together, and whose flows end."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.dataplane.nftables.diff import Group, claim, groups_between, stale_flows
from kakuremichi.dataplane.nftables.elements import Data, Element, Elements, Place


def mark(number: int) -> str:
    return f"0x{0x6B000000 | number:08x}"


def port(number: int, public: int) -> Element:
    return Element("ports", ("ipv4", "tcp", str(public)), (mark(number),))


def to(number: int, agent_port: int) -> Element:
    return Element("to4", (mark(number),), ("10.1.0.100", str(agent_port)))


def allow(number: int, network: str) -> Element:
    return Element("allow4", (mark(number), network))


def held(*elements: Element) -> dict[Place, Data]:
    return {element.place: element.data for element in elements}


def wanted(items: Mapping[int, set[Element]]) -> dict[int, Elements]:
    return {owner: frozenset(elements) for owner, elements in items.items()}


def test_a_changed_target_is_removed_and_added_in_one_group() -> None:
    groups = groups_between(held(port(1, 80), to(1, 20001)), wanted({1: {port(1, 80), to(1, 20002)}}))

    assert groups == (Group((1,), (to(1, 20001),), (to(1, 20002),)),)


def test_what_nobody_wants_is_removed_unless_its_owner_is_to_be_kept() -> None:
    actual = held(port(1, 80), port(2, 81))

    assert groups_between(actual, {}, keep={2}) == (Group((1,), (port(1, 80),)),)


def test_services_that_exchange_a_port_change_together_and_others_apart() -> None:
    groups = groups_between(
        held(port(1, 80), port(2, 81), port(3, 82)), wanted({1: {port(1, 81)}, 2: {port(2, 80)}, 3: {port(3, 83)}})
    )

    assert [group.owners for group in groups] == [(1, 2), (3,)]


def test_removals_come_first() -> None:
    groups = groups_between(held(port(9, 80)), wanted({1: {port(1, 81)}}))

    assert [group.owners for group in groups] == [(9,), (1,)]


def test_an_item_that_wants_anothers_port_is_refused_whole() -> None:
    claims: dict[Place, int] = {}

    accepted, refused = claim(claims, wanted({1: {port(1, 80)}, 2: {port(2, 80), to(2, 20002)}, 3: {port(3, 81)}}))

    assert set(accepted) == {1, 3}
    assert [(refusal.owner, refusal.reason) for refusal in refused] == [
        (2, "item 2: ports ipv4 . tcp . 80 belongs to item 1")
    ]
    assert set(claims.values()) == {1, 3}


def test_a_port_inside_anothers_range_and_a_range_around_anothers_are_refused() -> None:
    ranged = {n: Element("ranges", ("ipv4", "tcp", text), (mark(n),)) for n, text in ((1, "10-20"), (3, "5-30"))}

    accepted, refused = claim({}, wanted({1: {ranged[1]}, 2: {port(2, 15)}, 3: {ranged[3]}, 4: {port(4, 21)}}))

    assert set(accepted) == {1, 4}
    assert {refusal.owner for refusal in refused} == {2, 3}


def test_flows_end_when_they_would_be_moved_or_are_no_longer_allowed() -> None:
    assert stale_flows(Group((1,), (to(1, 1),), (to(1, 2),))) == {0x6B000001}
    assert stale_flows(Group((1,), (allow(1, "10.0.0.0/8"),), (allow(1, "10.0.0.0/9"),))) == {0x6B000001}
    assert stale_flows(Group((1,), (Element("open", (mark(1),)),), (allow(1, "10.0.0.0/9"),))) == {0x6B000001}
    assert stale_flows(Group((1, 2), (port(1, 80),), (port(2, 80),))) == {0x6B000001}


def test_flows_go_on_when_more_becomes_allowed() -> None:
    assert stale_flows(Group((1,), (), (allow(1, "10.0.0.0/8"), port(1, 80)))) == frozenset()
    assert stale_flows(Group((1,), (allow(1, "10.0.0.0/9"),), (allow(1, "10.0.0.0/8"),))) == frozenset()
    assert stale_flows(Group((1,), (allow(1, "10.0.0.0/9"),), (Element("open", (mark(1),)),))) == frozenset()
    assert stale_flows(Group((0,), (Element("doors", ("80",), ("1",)),))) == frozenset()


# Of each number any ports, and at most one target.
ITEMS = st.dictionaries(
    st.integers(1, 4), st.tuples(st.sets(st.integers(1, 5), max_size=2), st.sets(st.integers(1, 3), max_size=1))
).map(
    lambda raw: {
        n: frozenset({port(n, p) for p in ports} | {to(n, t) for t in target}) for n, (ports, target) in raw.items()
    }
)


@given(ITEMS, ITEMS)
def test_groups_lead_from_any_state_to_any_other(before: dict[int, Elements], after: dict[int, Elements]) -> None:
    actual = {e.place: e.data for elements in claim({}, before)[0].values() for e in elements}
    accepted, _ = claim({}, after)

    for group in groups_between(actual, accepted):
        for element in group.remove:
            assert actual.pop(element.place) == element.data
        for element in group.add:
            assert element.place not in actual
            actual[element.place] = element.data

    assert set(actual) == {e.place for elements in accepted.values() for e in elements}
