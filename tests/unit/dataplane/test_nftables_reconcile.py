"""The reconciler on a table in memory that behaves like the kernel's."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.dataplane.nftables.elements import TABLE_WIDE, Desired, Element, Elements, Ports, Refusal
from kakuremichi.dataplane.nftables.errors import DeviceError, RefusedError
from kakuremichi.dataplane.nftables.gateway import (
    GatewayTable,
    L4Service,
    gateway_desired,
    gateway_elements,
    gateway_wide_elements,
)
from kakuremichi.dataplane.nftables.halving import MAX_REFUSALS
from kakuremichi.dataplane.nftables.marks import mark_of
from kakuremichi.dataplane.nftables.memory import MemoryTable
from kakuremichi.dataplane.nftables.reconcile import Reconciler


def service(number: int, port: int = 0, agent_port: int = 20001, **more: object) -> L4Service:
    made = L4Service(
        number=number,
        proto="tcp",
        ports=Ports.of(port or 1000 + number),
        agent_port=agent_port,
        target=IPv4Address("10.1.0.100"),
    )
    return replace(made, **more)  # type: ignore[arg-type]


def desired(*services: L4Service, slot: int = 7, doors: dict[int, int] | None = None) -> Desired:
    return gateway_desired(GatewayTable("wg", slot, doors or {}, frozenset(), {s.number: s for s in services}))


def elements_of(wanted: Desired) -> dict[tuple[str, tuple[str, ...]], tuple[str, ...]]:
    return {e.place: e.data for elements in wanted.items.values() for e in elements}


async def test_a_change_is_one_batch_and_no_listing() -> None:
    table = MemoryTable()
    reconciler = Reconciler(table)
    await reconciler.full(desired(*map(service, range(1, 50))))

    report = await reconciler.change({7: gateway_elements(service(7, agent_port=20002)), 8: frozenset()})

    assert (len(table.batches), table.reads) == (2, 1)
    assert report.changed == 2 + 6
    assert report.flush == {mark_of(7), mark_of(8)}
    rest = [service(n) for n in range(1, 50) if n not in (7, 8)]
    assert table.elements == elements_of(desired(*rest, service(7, agent_port=20002)))


async def test_a_change_that_changes_nothing_writes_nothing() -> None:
    table = MemoryTable()
    reconciler = Reconciler(table)
    await reconciler.full(desired(service(1)))

    report = await reconciler.change({1: gateway_elements(service(1)), 2: frozenset()})

    assert len(table.batches) == 1
    assert (report.changed, report.flush) == (0, frozenset())


async def test_a_change_before_the_first_comparison_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(RuntimeError, match="before the first full comparison"):
        await Reconciler(MemoryTable()).change({})


async def test_one_bad_service_does_not_hinder_the_others() -> None:
    bad = service(30)
    table = MemoryTable(poison=[next(iter(gateway_elements(bad))).place])
    everything = desired(*map(service, range(1, 61)))

    report = await Reconciler(table).full(everything)

    assert report.refused == (Refusal(30, "item 30: nft: Could not process rule: File exists"),)
    assert table.elements == elements_of(desired(*(service(n) for n in range(1, 61) if n != 30)))


async def test_a_bad_successor_leaves_what_served_before() -> None:
    table = MemoryTable(poison=[("allow4", (f"0x{mark_of(1):08x}", "10.0.0.0/8"))])
    reconciler = Reconciler(table)
    await reconciler.full(desired(service(1)))

    sources = frozenset({IPv4Network("10.0.0.0/8")})
    report = await reconciler.change({1: gateway_elements(service(1, sources=sources))})

    assert [refusal.owner for refusal in report.refused] == [1]
    assert report.flush == frozenset()
    assert table.elements == elements_of(desired(service(1)))


async def test_a_service_that_cannot_be_expressed_keeps_what_it_has() -> None:
    table = MemoryTable()
    await Reconciler(table).full(desired(service(1), service(2)))

    report = await Reconciler(table).full(desired(service(1, ports=Ports.of(5, 9))))

    assert [refusal.owner for refusal in report.refused] == [1]
    assert table.elements == elements_of(desired(service(1)))


async def test_a_port_that_belongs_to_another_service_is_refused_and_that_one_is_named() -> None:
    table = MemoryTable()
    reconciler = Reconciler(table)
    await reconciler.full(desired(service(1, 80), service(2, 81)))

    taken = await reconciler.change({2: gateway_elements(service(2, 80))})
    inside = await reconciler.change({3: gateway_elements(service(3, ports=Ports.of(70, 90), agent_port=70))})

    assert taken.refused == (Refusal(2, "item 2: ports ipv4 . tcp . 80 belongs to item 1"),)
    assert [refusal.owner for refusal in inside.refused] == [3]
    assert table.elements == elements_of(desired(service(1, 80), service(2, 81)))


async def test_a_freed_port_may_be_taken_in_the_same_change_and_in_the_next() -> None:
    table = MemoryTable()
    reconciler = Reconciler(table)
    await reconciler.full(desired(service(1, 80), service(2, 81)))

    await reconciler.change({1: gateway_elements(service(1, 81)), 2: gateway_elements(service(2, 80))})
    await reconciler.change({2: frozenset()})
    report = await reconciler.change({3: gateway_elements(service(3, 80))})

    assert report.refused == ()
    assert table.elements == elements_of(desired(service(1, 81), service(3, 80)))


async def test_what_a_refused_item_waits_for_is_tried_again_within_the_pass() -> None:
    # The first, larger batch is refused for service 9; alone, 5 is tried before 6 has left the port.
    ranged = service(6, ports=Ports.of(100, 200), agent_port=100)
    table = MemoryTable(poison=[("to4", (f"0x{mark_of(9):08x}",))])
    reconciler = Reconciler(table)
    await reconciler.full(desired(ranged))

    smaller = service(6, ports=Ports.of(100, 110), agent_port=100)
    report = await reconciler.full(desired(service(5, ports=Ports.of(150, 160), agent_port=150), smaller, service(9)))

    assert [refusal.owner for refusal in report.refused] == [9]
    assert table.elements == elements_of(desired(service(5, ports=Ports.of(150, 160), agent_port=150), smaller))


async def test_doubt_after_a_lost_answer_leads_to_a_new_reading() -> None:
    table = MemoryTable(lose_at=[1])
    reconciler = Reconciler(table)
    await reconciler.full(desired(service(1)))
    with pytest.raises(DeviceError):
        await reconciler.change({2: gateway_elements(service(2))})

    report = await reconciler.change({3: gateway_elements(service(3))})

    assert table.reads == 2
    assert report.refused == ()
    assert table.elements == elements_of(desired(service(1), service(2), service(3)))


async def test_a_skeleton_that_the_kernel_does_not_take_is_an_error_after_few_attempts() -> None:
    table = MemoryTable(fail_at=range(10_000))

    with pytest.raises(RefusedError, match="No buffer space"):
        await Reconciler(table).full(desired(*map(service, range(1, 1001))))

    assert len(table.batches) < MAX_REFUSALS + 20
    table.fail_at = set()
    assert (await Reconciler(table).full(desired(service(1)))).changed == 6


async def test_the_guards_stand_even_if_every_item_is_refused() -> None:
    table = MemoryTable(poison=[element.place for element in gateway_elements(service(1))])

    report = await Reconciler(table).full(replace(desired(), items={1: gateway_elements(service(1))}))

    assert report.replaced
    assert [refusal.owner for refusal in report.refused] == [1]
    assert table.skeleton == desired().skeleton


async def test_doors_change_like_any_item() -> None:
    table = MemoryTable()
    reconciler = Reconciler(table)
    await reconciler.full(desired(service(1), doors={443: 8443}))

    changed = GatewayTable("wg", 7, {443: 9443}, frozenset({("tcp", 9443)}))
    report = await reconciler.change({TABLE_WIDE: gateway_wide_elements(changed)})

    assert report.flush == frozenset()
    assert table.elements["doors", ("443",)] == ("9443",)


async def test_a_replaced_table_still_says_whose_flows_end() -> None:
    table = MemoryTable()
    await Reconciler(table).full(desired(service(1), service(2)))

    report = await Reconciler(table).full(desired(service(1, agent_port=20009), slot=8))

    assert report.replaced
    assert report.flush == {mark_of(1), mark_of(2)}


def ranges(number: int, first: int, size: int) -> L4Service:
    return service(number, ports=Ports.of(first, first + size), agent_port=first if size else 20000 + first)


STATES = st.dictionaries(
    st.integers(1, 5),
    st.tuples(st.integers(1, 12), st.integers(0, 3), st.sets(st.sampled_from(["10.0.0.0/8", "10.0.0.0/9", "1.1.1.1"]))),
    max_size=5,
).map(
    lambda raw: {
        n: gateway_elements(
            replace(ranges(n, first, size), sources=frozenset(map(IPv4Network, nets)) if nets else None)
        )
        for n, (first, size, nets) in raw.items()
    }
)
POSITIONS = st.sets(st.integers(0, 6), max_size=3)


def whole(items: dict[int, Elements]) -> Desired:
    return replace(desired(), items=items)


async def converges(before: dict[int, Elements], after: dict[int, Elements], table: MemoryTable) -> None:
    reconciler = Reconciler(table)
    changes: dict[int, Elements] = {n: after.get(n, frozenset()) for n in before.keys() | after.keys()}
    # Whatever happens on the way, also a change without a first comparison: the next full pass mends it.
    with suppress(DeviceError, RefusedError, RuntimeError):
        await reconciler.full(whole(before))
    with suppress(DeviceError, RefusedError, RuntimeError):
        await reconciler.change(changes)
    table.fail_at, table.lose_at = set(), set()

    last = await Reconciler(table).full(whole(after))
    fresh = MemoryTable()
    from_nothing = await Reconciler(fresh).full(whole(after))
    again = await Reconciler(table).full(whole(after))

    refused = {refusal.owner for refusal in last.refused}
    assert refused == {refusal.owner for refusal in from_nothing.refused}
    assert again.changed == 0
    kept = {place for place in table.elements if place not in fresh.elements}
    assert fresh.elements.items() <= table.elements.items()
    # Only refused items may have more than a fresh table would give them: what they had before.
    assert all(
        Element(*place, table.elements[place]) in before.get(n, ()) for place in kept for n in [_number(table, place)]
    )
    assert {_number(table, place) for place in kept} <= refused


def _number(table: MemoryTable, place: tuple[str, tuple[str, ...]]) -> int:
    atoms = (*place[1][:1], *table.elements[place][:1])
    return next(int(atom, 16) & 0xFFFFFF for atom in atoms if atom.startswith("0x"))


@given(STATES, STATES, POSITIONS, POSITIONS)
def test_any_state_is_reached_from_any_other_whatever_fails_on_the_way(
    before: dict[int, Elements], after: dict[int, Elements], fail_at: set[int], lose_at: set[int]
) -> None:
    asyncio.run(converges(before, after, MemoryTable(fail_at=fail_at, lose_at=lose_at)))
