"""What a gateway tells of its services: totals that go on, rates of two readings, and only what it was asked for."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from kakuremichi.bus.memory import MemoryNats
from kakuremichi.bus.port import Message
from kakuremichi.dataplane.haproxy.client import ProxyError, ProxyUnavailableError
from kakuremichi.dataplane.haproxy.stats import BackendStat, Counters, Workers
from kakuremichi.dataplane.nftables.errors import DeviceError
from kakuremichi.dataplane.nftables.memory import MemoryTable
from kakuremichi.dataplane.nftables.reader import Counters as Flows
from kakuremichi.dataplane.nftables.reconcile import Reconciler as TableReconciler
from kakuremichi.model.ids import NodeId, PoolName, ServiceId
from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.counters import AskCounters, Counted, CountersTold
from kakuremichi_gateway.counters import CounterDesk, OpenFlows
from kakuremichi_gateway.counting import FRESH_S, MOST_SPAN_S, FlowCount, FlowReading, HttpCount, rated
from kakuremichi_gateway.metrics import BYTES, GatewayMetrics
from kakuremichi_gateway.model import GatewayModel
from kakuremichi_gateway.publishing import L4Section
from support.feedmaker import verifier
from support.people import MAIN, Person, http_route, tcp_route

SITE = Person("site-a", subnet="10.1.0.0/24")
WEB, SSH = ServiceId("web"), ServiceId("ssh")
SPAN_S = 0.125  # between two readings of nftables
ASK = AskCounters(ask_id=b"a" * 16, services=(WEB, SSH, ServiceId("elsewhere")))


@dataclass
class Kernel:
    """HAProxy and nftables as far as they count. `time` is the clock of whoever reads them."""

    time: float = 100.0
    backend: BackendStat = field(default_factory=BackendStat)
    flows: Flows = field(default_factory=Flows)
    opened: Mapping[int, int] | None = field(default_factory=dict)
    broken: Exception | None = None
    reads: list[str] = field(default_factory=list)

    async def workers(self) -> Workers:
        self.reads.append("haproxy")
        self._fail(ProxyError)
        return {1: {0: self.backend}}

    async def counts(self) -> Mapping[ServiceId, Flows]:
        self.reads.append("nftables")
        self.time += SPAN_S  # so nobody has to wait for the second reading
        self._fail(DeviceError)
        return {SSH: self.flows}

    async def open_flows(self) -> Mapping[int, int] | None:
        self.reads.append("conntrack")
        self._fail(DeviceError)
        return self.opened

    def _fail(self, kind: type[Exception]) -> None:
        if isinstance(self.broken, kind):
            raise self.broken


class Rig:
    def __init__(self) -> None:
        self.kernel, self.nats = Kernel(), MemoryNats()
        model = GatewayModel(verifier(), MAIN)
        model.take([
            (("agent-peer", "site-a"), SITE.agent_peer()),
            (("route", "web"), http_route("web", "site-a")),
            (("route", "ssh"), tcp_route("ssh", "site-a", 7000)),
        ])  # fmt: skip
        table = MemoryTable()
        l4 = L4Section(model, table, TableReconciler(table), "kk0", 1)
        self.number = l4.numbers.of(model.routes[SSH])

        def clock() -> float:
            return self.kernel.time

        self.http = HttpCount(lambda: {0: WEB}, self.kernel.workers, clock=clock)
        self.flows = FlowCount(self.kernel.counts, clock=clock, least_span_s=SPAN_S)
        self.bus = self.nats.connect("reply.gw1")
        self.desk = CounterDesk(
            self.bus, NodeId("gw1"), PoolName("main"), l4, self.http, self.flows,
            OpenFlows(self.kernel.open_flows),
        )  # fmt: skip

    async def told(self) -> dict[str, Counted]:
        return {counted.service_id: counted for counted in (await self.desk.answer(ASK)).services}


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_each_kind_is_told_by_what_carries_it_and_unknown_services_are_left_out(rig: Rig) -> None:
    await rig.http.read()
    rig.kernel.time += FRESH_S
    rig.kernel.backend = BackendStat(
        Counters(requests=9, bytes_in=900, bytes_out=70, status_2xx=7, status_4xx=2, denied=1, connect_errors=3),
        sessions=2,
        rate=5,
    )
    rig.kernel.flows = Flows(packets=30, bytes=3000, connections=4, refused=1, packets_out=10, bytes_out=2000)
    rig.kernel.opened = {rig.number: 2, 77: 5}

    assert await rig.told() == {
        "web": Counted(
            service_id=WEB, open=2, requests=9, statuses=(0, 7, 0, 2, 0), bytes_in=900, bytes_out=70, denied=1,
            connect_errors=3, response_errors=0, rate=5.0,
        ),
        "ssh": Counted(
            service_id=SSH, connections=4, open=2, bytes_in=1000, bytes_out=2000, packets_in=20, packets_out=10,
            limited=1, rate=0.0,
        ),
    }  # fmt: skip


async def test_what_haproxy_counted_before_is_not_told_and_a_restarted_worker_goes_on(rig: Rig) -> None:
    rig.kernel.backend = BackendStat(Counters(requests=50))
    await rig.http.begin(asyncio.Event())
    rig.kernel.time += FRESH_S
    rig.kernel.backend = BackendStat(Counters(requests=53))
    assert (await rig.told())["web"].requests == 3
    rig.kernel.time += FRESH_S
    rig.kernel.backend = BackendStat(Counters(requests=2))
    assert (await rig.told())["web"].requests == 5


async def test_a_haproxy_that_does_not_answer_holds_up_no_reload(rig: Rig) -> None:
    async def never() -> Workers:
        await asyncio.Event().wait()
        raise AssertionError

    await HttpCount(lambda: {0: WEB}, never).note()  # would end by the test's own limit
    rig.kernel.broken = ProxyUnavailableError("master.sock: nobody answers")
    await rig.http.note()
    rig.kernel.broken = None
    await rig.http.note()
    assert rig.http.since is not None


async def test_whoever_asks_at_once_again_is_told_the_same_and_nothing_is_read_for_it(rig: Rig) -> None:
    await rig.told()
    read = list(rig.kernel.reads)

    await rig.told()

    assert read == ["haproxy", "nftables", "nftables", "conntrack"]
    assert rig.kernel.reads == read


async def test_what_cannot_be_read_is_named_and_the_rest_is_told(rig: Rig) -> None:
    rig.kernel.broken = ProxyUnavailableError("master.sock: nobody answers")
    answer = await rig.desk.answer(ASK)
    assert [counted.service_id for counted in answer.services] == [SSH]
    assert answer.errors == ("haproxy: master.sock: nobody answers",)
    assert answer.counting_s == 0

    rig.kernel.broken, rig.kernel.time = DeviceError("nft: killed by signal 9"), 200.0
    answer = await rig.desk.answer(ASK)
    assert [counted.service_id for counted in answer.services] == [WEB]
    assert answer.errors == ("nft: killed by signal 9",)


async def test_flows_that_are_too_many_to_count_are_not_said_to_be_none(rig: Rig) -> None:
    rig.kernel.opened = None
    assert (await rig.told())["ssh"].open is None


async def test_rates_are_those_since_the_last_reading_if_that_is_not_long_ago(rig: Rig) -> None:
    await rig.flows.read()
    rig.kernel.time += 10 - SPAN_S
    rig.kernel.flows = Flows(connections=50)
    assert (await rig.flows.read(rates=True)).rates == {SSH: 5.0}
    rig.kernel.time += MOST_SPAN_S
    reads = len(rig.kernel.reads)
    await rig.flows.read(rates=True)
    assert len(rig.kernel.reads) == reads + 2


def test_a_service_that_is_new_or_began_anew_counts_from_zero() -> None:
    before = FlowReading(0.0, {SSH: Flows(connections=100)})
    now = FlowReading(2.0, {SSH: Flows(connections=10), WEB: Flows(connections=4)})
    assert rated(before, now).rates == {SSH: 5.0, WEB: 2.0}


async def test_an_ask_of_the_pool_is_answered_under_the_gateways_own_subject(rig: Rig) -> None:
    portal, heard, stop = rig.nats.connect("portal"), list[Message](), asyncio.Event()

    async def hear(message: Message) -> None:
        heard.append(message)

    await portal.subscribe("counters.*", hear)
    running = asyncio.create_task(rig.desk.run(stop))
    while not rig.bus.listens("ask.counters.main"):  # noqa: ASYNC110  # nobody tells of a subscription
        await asyncio.sleep(0)
    await portal.publish("ask.counters.main", b"no MessagePack")
    await portal.publish("ask.counters.other", encode(ASK))
    await portal.publish("ask.counters.main", encode(ASK), reply="_INBOX.registry.x")
    async with asyncio.timeout(20):
        while not heard:  # noqa: ASYNC110  # the answer comes through threads
            await asyncio.sleep(0.01)
    stop.set()
    await running

    assert [message.subject for message in heard] == ["counters.gw1"]
    assert decode(heard[0].data, CountersTold).ask_id == ASK.ask_id
    assert rig.nats.sent_to("_INBOX.>") == []


async def test_bytes_that_both_have_counted_are_told_once(rig: Rig) -> None:
    """HAProxy has a part in a service of tcp: for visitors by IPv6 and for PROXY protocol."""
    rig.kernel.flows = Flows(bytes=300, bytes_out=100)
    both = HttpCount(lambda: {0: SSH}, rig.kernel.workers)
    await both.read()
    rig.kernel.backend = BackendStat(Counters(requests=1, bytes_in=40, bytes_out=50))

    samples = await GatewayMetrics(both, rig.flows).collect()

    told = [(labels, value) for family, labels, value in samples if family is BYTES]
    assert told == [(("ssh", "in"), 200), (("ssh", "out"), 100)]
