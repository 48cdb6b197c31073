"""The same promises of `Table` for the fake and for nft in a network namespace of the test's own."""

import subprocess
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from kakuremichi.dataplane.nftables.device import NftTable, Table
from kakuremichi.dataplane.nftables.elements import TABLE_WIDE, Element, Ports
from kakuremichi.dataplane.nftables.errors import ForeignTableError, RefusedError
from kakuremichi.dataplane.nftables.gateway import GatewayTable, L4Service, gateway_desired, gateway_elements
from kakuremichi.dataplane.nftables.gateway_rules import gateway_skeleton
from kakuremichi.dataplane.nftables.marks import mark_of
from kakuremichi.dataplane.nftables.reconcile import Reconciler
from kakuremichi.dataplane.nftables.render import AddElements, DeleteTable, PutSkeleton, RemoveElements
from support.nftables_services import SERVICES

SKELETON = gateway_skeleton("wg", 7)
TABLE = GatewayTable(
    "wg",
    7,
    {80: 8080, 443: 8443},
    frozenset({("tcp", 8080)}),
    SERVICES,
    listeners=frozenset({("tcp", 80)}),
    shaped={(IPv4Address("10.1.0.100"), 20009): 1048576, (IPv4Address("10.1.0.100"), 20010): 1000},
)


async def test_a_table_that_is_not_there_reads_as_none(table: Table) -> None:
    assert await table.read() is None
    assert await table.counters() == {}


async def test_what_is_put_is_read_back_word_for_word(table: Table) -> None:
    desired = gateway_desired(TABLE)

    report = await Reconciler(table).full(desired)

    assert report.refused == ()
    actual = await table.read()
    assert actual is not None
    assert actual.has(SKELETON)
    assert actual.elements == {e.place: e.data for elements in desired.items.values() for e in elements}
    assert set(await table.counters()) == {1, 2, 3, 4}


async def test_a_second_pass_adopts_the_table_and_changes_nothing(table: Table) -> None:
    await Reconciler(table).full(gateway_desired(TABLE))

    report = await Reconciler(table).full(gateway_desired(TABLE))

    assert (report.replaced, report.changed) == (False, 0)


async def test_another_version_replaces_the_table_with_all_elements(table: Table) -> None:
    await Reconciler(table).full(gateway_desired(TABLE))

    report = await Reconciler(table).full(gateway_desired(replace(TABLE, slot=8)))

    assert report.replaced
    actual = await table.read()
    assert actual is not None
    assert actual.has(gateway_skeleton("wg", 8))
    assert report.flush == frozenset()


async def test_a_refused_batch_leaves_nothing_behind(table: Table) -> None:
    await table.apply((PutSkeleton(SKELETON), AddElements((Element("doors", ("80",), ("8080",)),))))

    with pytest.raises(RefusedError, match="File exists"):
        await table.apply(
            (
                RemoveElements((Element("doors", ("80",)),)),
                AddElements((Element("doors", ("81",), ("8081",)), Element("open", ("0x6b000001",)))),
                AddElements((Element("doors", ("81",), ("9",)),)),
            )
        )

    actual = await table.read()
    assert actual is not None
    assert actual.elements == {("doors", ("80",)): ("8080",)}


async def test_an_element_may_be_added_again_but_not_with_another_value(table: Table) -> None:
    door = Element("doors", ("80",), ("8080",))
    await table.apply((PutSkeleton(SKELETON), AddElements((door,))))

    await table.apply((AddElements((door,)),))
    with pytest.raises(RefusedError):
        await table.apply((AddElements((door._replace(data=("8081",)),)),))
    await table.apply((RemoveElements((door,)), AddElements((door._replace(data=("8081",)),))))

    actual = await table.read()
    assert actual is not None
    assert actual.elements == {("doors", ("80",)): ("8081",)}


async def test_removing_what_is_not_there_is_refused(table: Table) -> None:
    await table.apply((PutSkeleton(SKELETON),))

    with pytest.raises(RefusedError):
        await table.apply((RemoveElements((Element("doors", ("80",)),)),))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Element("allow4", ("0x6b000001", "10.0.0.0/8")), Element("allow4", ("0x6b000001", "10.1.0.0/16"))),
        (Element("allow6", ("0x6b000001", "2001:db8::/32")), Element("allow6", ("0x6b000001", "2001:db8::1"))),
        (
            Element("ranges", ("ipv4", "tcp", "100-200"), ("0x6b000001",)),
            Element("ranges", ("ipv4", "tcp", "150-250"), ("0x6b000002",)),
        ),
    ],
)
async def test_overlapping_intervals_are_refused_but_may_take_each_others_place(
    table: Table, first: Element, second: Element
) -> None:
    await table.apply((PutSkeleton(SKELETON), AddElements((first,))))

    with pytest.raises(RefusedError):
        await table.apply((AddElements((second,)),))
    await table.apply((RemoveElements((first,)), AddElements((second,))))

    actual = await table.read()
    assert actual is not None
    assert actual.elements == {second.place: second.data}


async def test_an_interval_around_another_one_is_taken_in_silence(table: Table) -> None:
    # Not what anybody would want: it is why overlaps are looked for before the kernel is asked.
    inner, outer = Element("allow4", ("0x6b000001", "10.1.0.0/16")), Element("allow4", ("0x6b000001", "10.0.0.0/8"))

    await table.apply((PutSkeleton(SKELETON), AddElements((inner,))))
    await table.apply((AddElements((outer,)),))
    await table.apply((RemoveElements((inner,)),))

    actual = await table.read()
    assert actual is not None
    assert actual.elements == {outer.place: ()}


async def test_the_same_interval_may_belong_to_two_services(table: Table) -> None:
    elements = (Element("allow4", ("0x6b000001", "10.0.0.0/8")), Element("allow4", ("0x6b000002", "10.0.0.0/8")))

    await table.apply((PutSkeleton(SKELETON), AddElements(elements)))

    actual = await table.read()
    assert actual is not None
    assert set(actual.elements) == {element.place for element in elements}


async def test_two_services_exchange_their_ports_in_one_change(table: Table) -> None:
    one = SERVICES[1]
    other = replace(one, number=9, ports=Ports.of(5433))
    reconciler = Reconciler(table)
    await reconciler.full(gateway_desired(replace(TABLE, services={1: one, 9: other})))

    report = await reconciler.change(
        {1: gateway_elements(replace(one, ports=other.ports)), 9: gateway_elements(replace(other, ports=one.ports))}
    )

    assert report.refused == ()
    actual = await table.read()
    assert actual is not None
    assert actual.elements["ports", ("ipv4", "tcp", "5432")] == ("0x6b000009",)
    assert actual.elements["ports", ("ipv4", "tcp", "5433")] == ("0x6b000001",)


async def test_an_overlapping_range_is_refused_and_the_rest_applied(table: Table) -> None:
    overlapping = replace(SERVICES[2], number=4, ports=Ports.of(45000, 46000), agent_port=45000)

    report = await Reconciler(table).full(gateway_desired(replace(TABLE, services={**SERVICES, 4: overlapping})))

    assert report.refused == ((4, "item 4: ports ipv4 . udp . 45000 belongs to item 2"),)
    actual = await table.read()
    assert actual is not None
    assert actual.elements["to4", ("0x6b000001",)] == ("10.1.0.100", "20001")
    assert actual.elements["doors", ("80",)] == ("8080",)


async def test_removal_takes_the_table_away_and_may_be_repeated(table: Table) -> None:
    reconciler = Reconciler(table)
    await reconciler.full(gateway_desired(TABLE))

    await reconciler.remove()
    await reconciler.remove()

    assert await table.read() is None
    with pytest.raises(RefusedError):
        await table.apply((DeleteTable(),))


@pytest.mark.root
class TestNft:
    """What only the real one can show."""

    async def test_an_item_that_nft_refuses_is_named_and_all_others_are_applied(self, nft: NftTable) -> None:
        desired = gateway_desired(TABLE)
        bad = frozenset({Element("to4", ("0x6b000063",), ("10.1.0.100", "99999"))})
        reconciler = Reconciler(nft)

        first = await reconciler.full(replace(desired, items={**desired.items, 99: bad}))
        later = await reconciler.change({99: bad, 1: frozenset()})

        assert [refusal.owner for refusal in first.refused] == [99]
        assert "item 99: nft: " in first.refused[0].reason
        assert [refusal.owner for refusal in later.refused] == [99]
        actual = await nft.read()
        assert actual is not None
        wanted = {e.place: e.data for owner, elements in desired.items.items() if owner != 1 for e in elements}
        assert actual.elements == wanted

    @pytest.fixture
    def nft(self, netns: str) -> NftTable:
        return NftTable("kk_contract", command=("ip", "netns", "exec", netns, "nft"))

    def run(self, netns: str, *arguments: str) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", netns, "nft", *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout

    async def test_a_rule_taken_out_or_put_in_by_hand_is_mended(self, nft: NftTable, netns: str) -> None:
        await Reconciler(nft).full(gateway_desired(TABLE))
        self.run(netns, "add", "rule", "inet", "kk_contract", "translate", "counter")

        first = await Reconciler(nft).full(gateway_desired(TABLE))
        self.run(netns, "flush", "chain", "inet", "kk_contract", "tunnel_guard")
        second = await Reconciler(nft).full(gateway_desired(TABLE))

        assert (first.replaced, second.replaced) == (True, True)
        assert (await Reconciler(nft).full(gateway_desired(TABLE))).changed == 0

    async def test_an_element_put_in_by_hand_is_taken_out(self, nft: NftTable, netns: str) -> None:
        await Reconciler(nft).full(gateway_desired(TABLE))
        self.run(netns, "add", "element", "inet", "kk_contract", "open", "{ 0x6b000002 }")

        report = await Reconciler(nft).full(gateway_desired(TABLE))

        assert (report.replaced, report.changed) == (False, 1)
        assert report.flush == {0x6B000002}

    async def test_somebody_elses_table_of_our_name_is_neither_replaced_nor_deleted(
        self, nft: NftTable, netns: str
    ) -> None:
        self.run(netns, "add table inet kk_contract; add chain inet kk_contract c; add rule inet kk_contract c accept")
        before = self.run(netns, "list", "ruleset")

        with pytest.raises(ForeignTableError):
            await Reconciler(nft).full(gateway_desired(TABLE))
        with pytest.raises(ForeignTableError):
            await Reconciler(nft).remove()

        assert self.run(netns, "list", "ruleset") == before

    async def test_other_tables_are_never_touched(self, nft: NftTable, netns: str) -> None:
        self.run(
            netns,
            "add table inet filter; add chain inet filter input { type filter hook input priority 0; };"
            "add rule inet filter input tcp dport 22 accept; add table ip kk_contract; add table inet kk_contract2",
        )
        before = self.run(netns, "list", "ruleset")
        reconciler = Reconciler(nft)

        await reconciler.full(gateway_desired(TABLE))
        await reconciler.change({1: frozenset(), TABLE_WIDE: frozenset()})
        await reconciler.full(gateway_desired(replace(TABLE, slot=9)))
        with_ours = self.run(netns, "list", "ruleset")
        await reconciler.remove()

        assert "chain tunnel_guard" in with_ours
        assert self.run(netns, "list", "ruleset") == before

    async def test_refusals_without_rights_say_what_is_needed(self) -> None:
        drop = ("setpriv", "--reuid", "65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "nft")

        with pytest.raises(Exception, match="CAP_NET_ADMIN"):
            await NftTable("kk_contract", command=drop).read()

    async def test_ten_thousand_services_load_at_once_arrive_unspoiled_and_change_at_no_cost(
        self, nft: NftTable
    ) -> None:
        def service(number: int) -> L4Service:
            """Every other one closed; nft spoils marks where a command of many elements fills a netlink message."""
            net4 = IPv4Network((0x0B000000 + number * 256, 24))
            net6 = IPv6Network(((0x20010DB8 << 96) + (number << 64), 64))
            return L4Service(
                number=number,
                proto="tcp",
                ports=Ports.of(1024 + number * 6, 1024 + number * 6 + (5 if number % 10 == 0 else 0)),
                agent_port=1024 + number * 6,
                target=IPv4Address(0x0A000064 + number * 256),
                sources=frozenset((net4, net6)) if number % 2 else None,
            )

        desired = gateway_desired(replace(TABLE, services={n: service(n) for n in range(1, 10_001)}))
        wanted = {e.place: e.data for elements in desired.items.values() for e in elements}
        reconciler = Reconciler(nft)

        began = time.perf_counter()
        report = await reconciler.full(desired)
        whole = time.perf_counter() - began
        began = time.perf_counter()
        for number in (1, 2, 3):
            await reconciler.change({number: gateway_elements(replace(service(number), agent_port=1))})
        took = time.perf_counter() - began
        actual = await nft.read()

        assert (report.refused, report.changed) == ((), len(wanted))
        assert actual is not None
        moved = {("to4", (f"0x{mark_of(n):08x}",)): (str(service(n).target), "1") for n in (1, 2, 3)}
        assert actual.elements == wanted | moved
        assert took < whole, f"three changes took {took:.2f} s, all 10,000 services {whole:.2f} s"
