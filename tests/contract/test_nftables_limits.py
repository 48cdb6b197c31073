"""Limits in the table: the same for the fake and for nft in a network namespace of the test's own."""

import subprocess
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from contract.conftest import table_in
from kakuremichi.dataplane.nftables.device import Table
from kakuremichi.dataplane.nftables.elements import Ports
from kakuremichi.dataplane.nftables.errors import RefusedError
from kakuremichi.dataplane.nftables.gateway import GatewayTable, L4Service, gateway_desired, gateway_elements
from kakuremichi.dataplane.nftables.gateway_rules import gateway_skeleton
from kakuremichi.dataplane.nftables.limits import Policy
from kakuremichi.dataplane.nftables.reconcile import Reconciler
from kakuremichi.dataplane.nftables.render import RemovePolicies
from kakuremichi.model.addresses import IPAddress
from kakuremichi.model.options import Limits
from support.nftables_services import SERVICES as ALL

SKELETON = gateway_skeleton("wg", 7)
SERVICES = {number: ALL[number] for number in (1, 4)}
TABLE = GatewayTable("wg", 7, services=SERVICES)


def run(netns: str, *arguments: str) -> str:
    argv = ["ip", "netns", "exec", netns, "nft", *arguments]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


async def test_limits_change_one_by_one_and_chains_nobody_names_are_swept(table: Table) -> None:
    reconciler = Reconciler(table)
    await reconciler.full(gateway_desired(TABLE))
    changed = replace(SERVICES[4], limits=Limits(rate=101, rate_per_client=8, connections_per_client=20))
    other = replace(SERVICES[1], limits=Limits(rate_per_client=8, bandwidth=10**9))

    reports = [
        await reconciler.change({4: gateway_elements(changed)}),
        await reconciler.change({1: gateway_elements(other)}),
        await Reconciler(table).full(gateway_desired(replace(TABLE, services=SERVICES | {1: other, 4: changed}))),
    ]

    assert [(report.refused, report.flush) for report in reports] == [((), frozenset())] * 3
    assert (reports[2].replaced, reports[2].changed) == (False, 0)
    actual = await table.read()
    assert actual is not None
    assert set(actual.policies) == {Policy("client_rate", 8), Policy("client_conns", 20)}
    assert actual.has(SKELETON)


async def test_a_chain_that_is_named_is_not_removed(table: Table) -> None:
    await Reconciler(table).full(gateway_desired(TABLE))

    with pytest.raises(RefusedError):
        await table.apply((RemovePolicies((Policy("client_rate", 7),)),))

    actual = await table.read()
    assert actual is not None
    assert actual.has(SKELETON)
    assert Policy("client_rate", 7) in actual.policies


@pytest.mark.root
async def test_a_chain_of_a_limit_that_somebody_emptied_makes_the_table_new(netns: str) -> None:
    nft = table_in(netns)
    await Reconciler(nft).full(gateway_desired(TABLE))
    run(netns, "flush chain inet kk_contract client_rate_7")

    report = await Reconciler(nft).full(gateway_desired(TABLE))

    assert report.replaced
    assert "update @client_rate_7_4" in run(netns, "list", "chain", "inet", "kk_contract", "client_rate_7")


@pytest.mark.root
async def test_a_thousand_limits_of_each_kind_arrive_unspoiled(netns: str) -> None:
    nft = table_in(netns)

    def limited(number: int) -> L4Service:
        limits = Limits(
            rate=number, connections=number, rate_per_client=number % 5, connections_per_client=number % 3,
            bandwidth=number * 1024,
        )  # fmt: skip
        return replace(SERVICES[1], number=number, ports=Ports.of(number), limits=limits)

    shaped: dict[tuple[IPAddress, int], int] = {
        (IPv4Address(0x0A000064 + number * 256), 20000 + number): number * 1000 for number in range(1, 1001)
    }
    services = {number: limited(number) for number in range(1, 1001)}
    desired = gateway_desired(replace(TABLE, services=services, shaped=shaped))

    report = await Reconciler(nft).full(desired)
    actual = await nft.read()

    assert report.refused == ()
    assert actual is not None
    assert actual.elements == {e.place: e.data for elements in desired.items.values() for e in elements}
    assert len(actual.policies) == 4 + 2
