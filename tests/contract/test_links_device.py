"""What an interface does, run on the fake and on the kernel; and what we learn about the host's other networks."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Network, ip_interface, ip_network

import pytest
from pyroute2 import AsyncIPRoute

from kakuremichi.dataplane.links import sysctl
from kakuremichi.dataplane.links.desired import LOOPBACK6, IPInterface, LinkState
from kakuremichi.dataplane.links.device import LinkDevice, LinkError, Outcome
from kakuremichi.dataplane.links.diff import AddAddress, AddRoute, RemoveAddress, RemoveRoute, SetMtu
from kakuremichi.dataplane.links.interfaces import (
    change_interface,
    create_interface,
    find_interface,
    remove_interface,
)
from kakuremichi.dataplane.links.kernel import KernelLink
from kakuremichi.dataplane.links.memory import MemoryLink
from kakuremichi.dataplane.links.networks import changes, used_networks
from kakuremichi.dataplane.links.reconcile import reconcile
from kakuremichi.model.addresses import IPNetwork

NAME = "kk0"
ALIAS = "kakuremichi:test:gw1"


def addresses(*texts: str) -> frozenset[IPInterface]:
    return frozenset(ip_interface(text) for text in texts)


def networks(*texts: str) -> frozenset[IPNetwork]:
    return frozenset(ip_network(text) for text in texts)


DESIRED = LinkState(
    ALIAS,
    addresses=addresses("10.1.0.100/24", "fd00:1::100/64", "10.7.0.1/32"),
    routes=networks("10.2.0.0/24", "10.3.0.0/24", "fd00:2::/64", str(LOOPBACK6)),
)


@pytest.fixture(params=["memory", pytest.param("real", marks=pytest.mark.root)])
async def link(request: pytest.FixtureRequest) -> AsyncIterator[LinkDevice]:
    if request.param == "memory":
        yield MemoryLink(NAME, LinkState("", up=False, mtu=1500))
        return
    request.getfixturevalue("own_namespace")
    assert await create_interface(NAME, "bridge")
    async with KernelLink(NAME) as real:
        yield real


@pytest.fixture
async def real(own_namespace: None) -> AsyncIterator[KernelLink]:
    assert await create_interface(NAME, "bridge")
    async with KernelLink(NAME) as link:
        yield link


async def foreign_route(*networks: str, name: str = NAME) -> None:
    interface = await find_interface(name)
    assert interface is not None
    async with AsyncIPRoute() as route:
        for network in networks:
            await route.route("add", dst=network, oif=interface.index)


class TestLink:
    async def test_it_becomes_what_is_desired_and_stays(self, link: LinkDevice) -> None:
        outcomes = await reconcile(DESIRED, link)

        assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
        assert await link.read() == DESIRED
        assert await reconcile(DESIRED, link) == ()

    async def test_another_state_is_reached_from_there(self, link: LinkDevice) -> None:
        await reconcile(DESIRED, link)
        # .101 becomes a secondary of .100 and would go with it.
        other = replace(
            DESIRED,
            mtu=1380,
            addresses=addresses("10.1.0.101/24", "fd00:1::101/64"),
            routes=networks("10.3.0.0/24", "10.4.0.0/24", "fd00:3::/64"),
        )

        outcomes = await reconcile(other, link)

        assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
        assert await link.read() == other

    async def test_an_interface_that_was_down_gets_its_routes_again(self, link: LinkDevice) -> None:
        await reconcile(DESIRED, link)
        await reconcile(replace(DESIRED, up=False, routes=frozenset()), link)

        await reconcile(DESIRED, link)

        assert await link.read() == DESIRED

    async def test_a_step_that_is_done_already_succeeds(self, link: LinkDevice) -> None:
        await reconcile(DESIRED, link)
        steps = (
            AddAddress(ip_interface("10.1.0.100/24")),
            AddRoute(ip_network("10.2.0.0/24")),
            AddRoute(ip_network("fd00:2::/64")),
            RemoveRoute(ip_network("10.99.0.0/24")),
            RemoveRoute(ip_network("fd00:99::/64")),
            RemoveAddress(ip_interface("10.98.0.1/24")),
        )

        assert await link.apply(steps) == tuple(Outcome(step) for step in steps)
        assert await link.read() == DESIRED

    async def test_a_refused_step_does_not_stop_the_others(self, link: LinkDevice) -> None:
        steps = (AddRoute(ip_network("10.2.0.0/24")), SetMtu(1400))

        outcomes = await link.apply(steps)

        assert outcomes[0].error is not None
        assert outcomes[0].error.startswith("route 10.2.0.0/24")
        assert outcomes[1] == Outcome(SetMtu(1400))
        assert (await link.read()).mtu == 1400


@pytest.mark.root
class TestKernelLink:
    async def test_two_thousand_routes_are_set_read_and_found_equal(self, real: KernelLink) -> None:
        many = frozenset[IPNetwork](IPv4Network((0x0A000000 + (n << 8), 24)) for n in range(2000))
        desired = LinkState(ALIAS, routes=many)

        outcomes = await reconcile(desired, real)

        assert [outcome.error for outcome in outcomes if outcome.error] == []
        assert await real.read() == desired
        assert await reconcile(LinkState(ALIAS), real) != ()
        assert (await real.read()).routes == frozenset()

    async def test_a_route_of_another_is_neither_taken_nor_removed(self, real: KernelLink) -> None:
        await reconcile(LinkState(ALIAS), real)
        await foreign_route("10.2.0.0/24", "fd00:2::/64")

        outcomes = await reconcile(DESIRED, real)

        refused = [outcome.error for outcome in outcomes if outcome.error]
        assert refused == [
            f"route {network}: there is one already that is not ours; remove it or choose another subnet"
            for network in ("10.2.0.0/24", "fd00:2::/64")
        ]
        assert (await real.read()).routes == networks("10.3.0.0/24", str(LOOPBACK6))
        steps = (RemoveRoute(ip_network("10.2.0.0/24")), RemoveRoute(ip_network("fd00:2::/64")))
        assert await real.apply(steps) == tuple(Outcome(step) for step in steps)
        assert set(await used_networks()) >= networks("10.2.0.0/24", "fd00:2::/64")

    async def test_link_local_addresses_are_the_kernels(self, real: KernelLink) -> None:
        await real.apply([AddAddress(ip_interface("fe80::7/64"))])
        await reconcile(DESIRED, real)

        await reconcile(DESIRED, real)

        assert (await real.read()).addresses == DESIRED.addresses
        async with AsyncIPRoute() as route:
            told = {address.get("address") async for address in await route.get_addr()}
        assert "fe80::7" in told

    async def test_an_interface_made_anew_is_found_again(self, real: KernelLink) -> None:
        await reconcile(DESIRED, real)
        await remove_interface(NAME)
        await create_interface("kk1", "bridge")
        await create_interface(NAME, "bridge")
        await change_interface(NAME, state="up")

        outcomes = await real.apply([AddRoute(ip_network("10.2.0.0/24"))])

        assert outcomes == (Outcome(AddRoute(ip_network("10.2.0.0/24"))),)
        assert (await real.read()).routes == networks("10.2.0.0/24")

    async def test_an_interface_that_is_gone_is_told_by_name(self, real: KernelLink) -> None:
        await remove_interface(NAME)
        await remove_interface(NAME)

        with pytest.raises(LinkError, match="interface kk0: there is none of that name"):
            await real.read()
        outcomes = await real.apply([AddRoute(ip_network("10.2.0.0/24")), SetMtu(1400)])
        assert all(outcome.error is not None for outcome in outcomes)

    async def test_a_cancelled_dump_does_not_spoil_the_next(self, real: KernelLink) -> None:
        many = frozenset[IPNetwork](IPv4Network((0x0A000000 + (n << 8), 24)) for n in range(3000))
        await reconcile(LinkState(ALIAS, routes=many), real)
        for turns in range(1, 8):
            reading = asyncio.create_task(real.read())
            for _ in range(turns):
                await asyncio.sleep(0.002)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

            assert (await real.read()).routes == many

    @pytest.mark.parametrize("name", ["", "a/b", "sixteen-bytes-xx", "a b", "."])
    async def test_an_impossible_name_is_refused(self, own_namespace: None, name: str) -> None:
        with pytest.raises(LinkError, match="interface name"):
            await find_interface(name)


@pytest.mark.root
class TestNetworks:
    async def test_the_hosts_networks_are_told_without_ours(self, real: KernelLink) -> None:
        await reconcile(DESIRED, real)
        await create_interface("lan", "bridge")
        async with KernelLink("lan") as lan:
            await reconcile(
                LinkState("", addresses=addresses("192.168.7.2/24", "2001:db8:7::2/64", "192.168.7.9/32")), lan
            )
        await change_interface("lo", state="up")
        await foreign_route("10.44.0.0/16", "10.44.1.0/24", "0.0.0.0/0", name="lan")
        ours = await find_interface(NAME)
        assert ours is not None

        found = await used_networks([ours.index])

        assert found == tuple(ip_network(text) for text in ("10.44.0.0/16", "192.168.7.0/24", "2001:db8:7::/64"))

    async def test_a_change_of_another_is_told_once_and_ours_is_not(self, real: KernelLink) -> None:
        # IPv6 would tell of its link-local address up to two seconds later, after looking for duplicates.
        assert sysctl.ensure({f"net/ipv6/conf/{NAME}/disable_ipv6": "1"})[0].error is None
        await reconcile(LinkState(ALIAS), real)
        seen = changes(settle_s=1.0)
        waiting = await quiet(seen)
        await real.apply([AddRoute(ip_network("10.2.0.0/24"))])
        await asyncio.sleep(0.1)
        assert not waiting.done()

        await foreign_route("10.44.0.0/16", "10.45.0.0/16")
        await waiting

        again = asyncio.ensure_future(anext(seen))
        await asyncio.sleep(0.1)
        assert not again.done()
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)


async def quiet(seen: AsyncIterator[None]) -> asyncio.Future[None]:
    """The next change, awaited after those of the start: the kernel tells a missing carrier up to a second late."""
    while True:
        waiting = asyncio.ensure_future(anext(seen))
        if waiting not in (await asyncio.wait({waiting}, timeout=1.5))[0]:
            return waiting


@pytest.mark.root
async def test_sysctls_of_an_interface_are_written_and_read_back(real: KernelLink) -> None:
    wanted = sysctl.per_interface(NAME, route_localnet="1", rp_filter="2")

    assert [setting.error for setting in sysctl.ensure(wanted)] == [None, None]

    assert sysctl.ensure({f"net/ipv4/conf/{NAME}/route_localnet": "1"})[0].error is None
    (missing,) = sysctl.ensure({"net/ipv4/conf/nowhere/rp_filter": "0"})
    assert missing.error == (
        "sysctl net/ipv4/conf/nowhere/rp_filter: this kernel or network namespace does not have it"
    )
