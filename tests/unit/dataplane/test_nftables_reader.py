"""What nft's JSON says, in the forms that nft 1.0.6 writes."""

import json
from typing import Any

import pytest

from kakuremichi.dataplane.nftables.elements import TABLE_WIDE, Element, Ports, owner_of
from kakuremichi.dataplane.nftables.errors import DeviceError
from kakuremichi.dataplane.nftables.reader import Counters, parse_counters, parse_table


def listing(*objects: dict[str, Any]) -> bytes:
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *objects]}).encode()


def test_every_form_of_element_becomes_the_words_it_was_written_with() -> None:
    mark = 0x6B000001
    actual = parse_table(
        listing(
            {"table": {"family": "inet", "name": "kk", "handle": 1}},
            {"map": {"name": "doors", "type": "inet_service", "map": "inet_service", "elem": [[80, 8080]]}},
            {
                "map": {
                    "name": "ranges",
                    "type": ["nf_proto", "inet_proto", "inet_service"],
                    "map": "mark",
                    "elem": [[{"concat": ["ipv4", "tcp", {"range": [10, 19]}]}, mark]],
                }
            },
            {
                "map": {
                    "name": "to4",
                    "type": "mark",
                    "map": "ipv4_addr . inet_service",
                    "elem": [[mark, {"concat": ["10.1.0.100", 20001]}]],
                }
            },
            {
                "set": {
                    "name": "allow4",
                    "type": ["mark", "ipv4_addr"],
                    "elem": [
                        {"concat": [mark, {"prefix": {"addr": "10.0.0.0", "len": 8}}]},
                        {"concat": [mark, "11.0.0.1"]},
                    ],
                }
            },
            {
                "set": {
                    "name": "used",
                    "type": "mark",
                    "elem": [{"elem": {"val": mark, "counter": {"packets": 1, "bytes": 2}}}],
                }
            },
            {"set": {"name": "open", "type": "mark"}},
        )
    )

    assert actual.elements == {
        ("doors", ("80",)): ("8080",),
        ("ranges", ("ipv4", "tcp", "10-19")): ("0x6b000001",),
        ("to4", ("0x6b000001",)): ("10.1.0.100", "20001"),
        ("allow4", ("0x6b000001", "10.0.0.0/8")): (),
        ("allow4", ("0x6b000001", "11.0.0.1")): (),
        ("used", ("0x6b000001",)): (),
    }


def test_rules_are_known_by_their_comments_in_order() -> None:
    rules = [("a", "kakuremichi v a 0"), ("b", "kakuremichi v b 0"), ("a", "kakuremichi v a 1")]

    actual = parse_table(listing(*({"rule": {"chain": chain, "comment": comment}} for chain, comment in rules)))

    assert actual.rules == {("a", ("kakuremichi v a 0", "kakuremichi v a 1")), ("b", ("kakuremichi v b 0",))}
    assert not actual.foreign


def test_a_table_with_only_rules_of_others_is_foreign_and_an_empty_one_is_not() -> None:
    assert parse_table(listing({"rule": {"chain": "a"}}, {"rule": {"chain": "b", "comment": "theirs"}})).foreign
    assert not parse_table(listing()).foreign


def test_counters_are_found_by_service_number() -> None:
    def counted(packets: int, size: int) -> dict[str, Any]:
        counter = {"packets": packets, "bytes": size}
        return {"set": {"name": "x", "type": "mark", "elem": [{"elem": {"val": 0x6B000007, "counter": counter}}]}}

    assert parse_counters(listing(counted(10, 600)), listing(counted(3, 180))) == {7: Counters(10, 600, 3)}


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff", b'{"nftables": 1'])
def test_what_is_no_listing_is_an_error(text: bytes) -> None:
    with pytest.raises(DeviceError, match="cannot be read"):
        parse_table(text)


def test_the_owner_is_the_number_in_the_mark() -> None:
    assert owner_of(Element("ports", ("ipv4", "tcp", "80"), ("0x6b000007",))) == 7
    assert owner_of(Element("allow4", ("0x6b000007", "10.0.0.0/8"))) == 7
    assert owner_of(Element("doors", ("80",), ("8080",))) == TABLE_WIDE
    assert str(Ports.of(5)) == "5"
