"""A node's view of foreign firewalls, woken by the kernel: what is blocked is said, and mended where that is asked."""

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest

from kakuremichi.dataplane.foreign import kernel
from kakuremichi.dataplane.foreign.findings import Flow
from kakuremichi.dataplane.foreign.host import Host
from kakuremichi.dataplane.foreign.mending import Marked, ToPort
from kakuremichi.dataplane.foreign.packet import Packet
from kakuremichi.node.firewalls import Firewalls
from kakuremichi.reconcile.holding import Key
from support.cable import HERE, PORT, THERE, Pair

pytestmark = pytest.mark.root

SERVICE: Key = ("route", "game")
DROPS = "table ip filter { chain INPUT { type filter hook input priority filter; policy drop; }; }\n"
RELOAD = f"table ip filter\ndelete table ip filter\n{DROPS}"
OTHER = "table inet other { chain input { type filter hook input priority filter + 5; policy drop; }; }\n"


class OneService:
    """A node that serves one port of this host and needs another for itself."""

    def __init__(self) -> None:
        self.facts: dict[Key, object] = {SERVICE: object()}

    def general(self, host: Host) -> tuple[Flow, ...]:
        return (self._flow(host, None),)

    def own(self, host: Host) -> tuple[Flow, ...]:
        return (Flow(ToPort("udp", 51820), ((Packet("input", 4, "udp", 51820, iif=host.named("eth0")),),)),)

    def services(self) -> Mapping[Key, object]:
        return self.facts

    def flows(self, _facts: object, host: Host) -> tuple[Flow, ...]:
        return (self._flow(host, PORT),)

    def _flow(self, host: Host, port: int | None) -> Flow:
        packet = Packet("input", 4, "udp", port, iif=host.named("eth0"), saddr=THERE, daddr=HERE, mark=0x6B000001)
        return Flow(Marked(0x6B000000, 0xFF800000), ((packet,),))


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair() as made:
        yield made


class Watched:
    """Firewalls at work in a namespace, and how to wait for what becomes of it."""

    def __init__(self, pair: Pair, *, manage: bool) -> None:
        self.pair, self.warnings, self.reports = pair, dict[str, str](), 0
        self.traffic = OneService()
        self.firewalls = Firewalls(self.traffic, manage, self._report, self.warnings.__setitem__)

    def _report(self) -> None:
        self.reports += 1

    def run(self, steps: Callable[["Watched"], object]) -> None:
        async def work() -> None:
            stop = asyncio.Event()
            running = asyncio.create_task(self.firewalls.run(stop))
            try:
                await steps(self)  # type: ignore[misc]
            finally:
                stop.set()
                await running

        self.pair.run(work)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  (the state is the kernel's and comes by its own events)
                await asyncio.sleep(0.02)

    async def load(self, script: str) -> None:
        await asyncio.to_thread(self.pair.add, script)

    def rules(self) -> int:
        """Rules of ours in the tables of others."""
        found = self.pair.run(kernel.read_ruleset).rules.values()
        return sum(rule.comment.startswith("kakuremichi") for rules in found for rule in rules)


def test_what_blocks_is_said_when_it_comes_and_taken_back_when_it_goes(pair: Pair) -> None:
    async def steps(watched: Watched) -> None:
        await watched.until(lambda: watched.reports > 0)
        assert watched.firewalls.errors() == {}
        await watched.load(DROPS)
        await watched.until(lambda: SERVICE in watched.firewalls.errors())
        said = watched.firewalls.errors()[SERVICE]
        assert said.startswith("blocked-by ip filter INPUT: ")
        assert "51820" in watched.warnings["firewall"]
        await watched.load("delete table ip filter\n")
        await watched.until(lambda: not watched.firewalls.errors())
        await watched.until(lambda: watched.warnings["firewall"] == "")

    watched = Watched(pair, manage=False)
    watched.run(steps)
    assert watched.rules() == 0


def test_a_service_that_comes_later_is_judged_in_the_next_report(pair: Pair) -> None:
    pair.add(DROPS)

    async def steps(watched: Watched) -> None:
        await watched.until(lambda: SERVICE in watched.firewalls.errors())
        later: Key = ("route", "later")
        watched.traffic.facts = {later: object()}
        assert list(watched.firewalls.errors()) == [later]
        many: list[Key] = [("route", f"s{number:03}") for number in range(200)]
        watched.traffic.facts = {key: object() for key in reversed(many)}
        await watched.until(lambda: list(watched.firewalls.errors()) == many[:64])
        watched.traffic.facts = {}
        assert watched.firewalls.errors() == {}

    Watched(pair, manage=False).run(steps)


def test_managed_each_reload_is_mended_with_one_rule_for_each_traffic(pair: Pair) -> None:
    pair.add(DROPS + OTHER)

    async def steps(watched: Watched) -> None:
        for _ in range(3):
            await watched.until(lambda: not watched.firewalls.errors() and watched.rules() == 4)
            assert watched.warnings["firewall"] == ""
            await watched.load(RELOAD)
            await watched.until(lambda: watched.rules() == 4)

    Watched(pair, manage=True).run(steps)


def test_a_rule_that_is_there_is_not_put_again_by_the_next_life_of_the_node(pair: Pair) -> None:
    pair.add(DROPS)

    async def steps(watched: Watched) -> None:
        await watched.until(lambda: watched.reports > 0 and not watched.firewalls.errors() and watched.rules() == 2)
        before = watched.reports
        await watched.load("table ip other\n")  # a change, so that it looks once more
        await watched.until(lambda: watched.reports > before)
        assert watched.rules() == 2

    for _ in range(2):
        Watched(pair, manage=True).run(steps)
