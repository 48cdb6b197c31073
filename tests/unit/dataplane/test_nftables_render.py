"""Batches as nft reads them, and the skeletons word for word."""

import re
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from kakuremichi.dataplane.nftables.agent_rules import agent_skeleton
from kakuremichi.dataplane.nftables.elements import Element
from kakuremichi.dataplane.nftables.gateway_rules import gateway_skeleton
from kakuremichi.dataplane.nftables.render import AddElements, DeleteTable, PutSkeleton, RemoveElements, script
from kakuremichi.dataplane.nftables.skeleton import Skeleton, check_table_name

GOLDEN = Path(__file__).parent / "test_nftables_golden"
GATEWAY = gateway_skeleton("wg0", 7)
AGENT = agent_skeleton("wg0", IPv4Address("10.1.0.100"), IPv6Address("fd00:1::100"))


@pytest.mark.parametrize(("name", "skeleton"), [("gateway.nft", GATEWAY), ("agent.nft", AGENT)])
def test_the_skeleton_is_the_one_that_was_reviewed(name: str, skeleton: Skeleton) -> None:
    text = script((PutSkeleton(skeleton),), "kakuremichi")

    assert text.replace(skeleton.version, "VERSION") == (GOLDEN / name).read_text()


@pytest.mark.parametrize("skeleton", [GATEWAY, AGENT])
def test_every_rule_carries_the_version_and_its_place_in_at_most_128_bytes(skeleton: Skeleton) -> None:
    comments = re.findall(r'comment "([^"]*)"', script((PutSkeleton(skeleton),), "kakuremichi"))

    assert len(comments) == len(set(comments)) == sum(len(chain.rules) for chain in skeleton.chains)
    assert set(comments) == {comment for _, chain in skeleton.rule_ids for comment in chain}
    assert all(len(comment) < 128 and skeleton.version in comment for comment in comments)


def test_anything_that_differs_makes_another_version() -> None:
    versions = {
        gateway_skeleton("wg0", 7).version,
        gateway_skeleton("wg0", 8).version,
        gateway_skeleton("wg1", 7).version,
        agent_skeleton("wg0", IPv4Address("10.1.0.100")).version,
        agent_skeleton("wg0", IPv4Address("10.1.1.100")).version,
        AGENT.version,
    }

    assert len(versions) == 6
    assert gateway_skeleton("wg0", 7).version == GATEWAY.version


def test_elements_are_grouped_by_container_and_removed_without_their_data() -> None:
    old = Element("to4", ("0x6b000001",), ("10.1.0.100", "20001"))
    new = (
        Element("to4", ("0x6b000001",), ("10.1.0.100", "20002")),
        Element("allow4", ("0x6b000001", "10.0.0.0/8")),
        Element("allow4", ("0x6b000001", "11.0.0.1")),
    )

    assert script((RemoveElements((old,)), AddElements(new)), "kk") == (
        "delete element inet kk to4 { 0x6b000001 }\n"
        "add element inet kk allow4 { 0x6b000001 . 10.0.0.0/8, 0x6b000001 . 11.0.0.1/32 }\n"
        "add element inet kk to4 { 0x6b000001 : 10.1.0.100 . 20002 }\n"
    )
    assert script((DeleteTable(),), "kk") == "delete table inet kk\n"


def test_a_command_never_grows_beyond_one_netlink_message() -> None:
    doors = tuple(Element("doors", (str(port),), ("1",)) for port in range(1, 1001))

    lines = script((AddElements(doors),), "kk").splitlines()

    assert [line.count(" : ") for line in lines] == [400, 400, 200]


@pytest.mark.parametrize("name", ["", 'wg"; flush ruleset', "wg*", "sixteen-letters-", "a b", "a/b", "-a", "wg\n"])
def test_an_interface_name_that_means_more_than_a_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="interface"):
        gateway_skeleton(name, 7)
    with pytest.raises(ValueError, match="interface"):
        agent_skeleton(name, IPv4Address("10.1.0.100"))


@pytest.mark.parametrize("name", ["", "a b", "a;b", "1a", "a-b", "a\n", "x" * 40])
def test_a_table_name_that_nft_would_read_otherwise_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="table"):
        check_table_name(name)


@pytest.mark.parametrize("slot", [0, 100, -1])
def test_a_slot_outside_1_to_99_is_refused(slot: int) -> None:
    with pytest.raises(ValueError, match="slot"):
        gateway_skeleton("wg0", slot)
