"""What nft's JSON says of our table: the rules' ids and the elements. Pure.

Rules are never read back by their text: nft lists several otherwise than they were written.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kakuremichi.dataplane.nftables.diff import Placed
from kakuremichi.dataplane.nftables.elements import Element
from kakuremichi.dataplane.nftables.errors import DeviceError
from kakuremichi.dataplane.nftables.limits import STATEMENTS, Policy, number_said, policy_of, policy_rules
from kakuremichi.dataplane.nftables.marks import number_of
from kakuremichi.dataplane.nftables.skeleton import COMMENT, Skeleton


@dataclass(frozen=True, slots=True)
class Actual:
    """The table in the kernel. `rules` has every chain that holds any, with its rules' comments in order.

    `policies` has the chains of limits per visitor that are there, likewise.
    """

    rules: frozenset[tuple[str, tuple[str, ...]]]
    elements: Placed
    policies: Mapping[Policy, tuple[str, ...]] = field(default_factory=dict)

    def has(self, skeleton: Skeleton) -> bool:
        """Whether the table is of this very version, with no rule missing, added or moved."""
        return self.rules == skeleton.rule_ids and all(
            comments == policy_comments(policy) for policy, comments in self.policies.items()
        )

    @property
    def foreign(self) -> bool:
        """Whether somebody else has a table of our name: it has rules, and none of them is ours."""
        comments = [comment for _, chain in self.rules for comment in chain]
        return bool(comments) and not any(comment.startswith(f"{COMMENT} ") for comment in comments)


@dataclass(frozen=True, slots=True)
class Counters:
    """Of one service or target since its element was made. Packets and bytes count both directions; `…_out` are those
    of a gateway to its visitors.
    """

    packets: int = 0
    bytes: int = 0
    connections: int = 0
    refused: int = 0  # first packets of flows beyond a limit on new or open flows
    packets_out: int = 0
    bytes_out: int = 0


def policy_comments(policy: Policy) -> tuple[str, ...]:
    """What the rules of its chain must have for comments."""
    return tuple(policy.comment(place) for place in range(len(policy_rules(policy))))


def parse_table(text: bytes) -> Actual:
    """The answer of `nft -j list table`."""
    rules: dict[str, list[str]] = {}
    policies: dict[Policy, list[str]] = {}
    elements: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}
    for kind, body in _objects(text):
        if kind == "chain" and (policy := policy_of(body["name"])):
            policies.setdefault(policy, [])
        elif kind == "rule":
            policy = policy_of(body["chain"])
            comments = rules.setdefault(body["chain"], []) if policy is None else policies.setdefault(policy, [])
            comments.append(body.get("comment", ""))
        elif kind in ("set", "map") and "size" not in body:  # what the kernel fills by itself has a size
            elements.update((element.place, element.data) for element in _elements(body))
    return Actual(
        frozenset((chain, tuple(comments)) for chain, comments in rules.items()),
        elements,
        {policy: tuple(comments) for policy, comments in policies.items()},
    )


def parse_counters(used: bytes, opened: bytes, refused: bytes = b"", returned: bytes = b"") -> Mapping[int, Counters]:
    """The answers of `nft -j list set` for the sets of these names, by service number; "" is a set without elements."""
    connections = {number: packets for number, packets, _ in _counted(opened)}
    beyond = {number: packets for number, packets, _ in _counted(refused)}
    out = {number: (packets, size) for number, packets, size in _counted(returned)}
    return {
        number: Counters(packets, size, connections.get(number, 0), beyond.get(number, 0), *out.get(number, (0, 0)))
        for number, packets, size in _counted(used)
    }


def _objects(text: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        listing = msgspec.json.decode(text)["nftables"]
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise DeviceError(f"nft: its JSON cannot be read ({error})") from error
    for entry in listing:
        yield from entry.items()


def _counted(text: bytes) -> Iterator[tuple[int, int, int]]:
    if not text:
        return
    for kind, body in _objects(text):
        if kind != "set":
            continue
        for entry in body.get("elem", ()):
            counter = entry["elem"]["counter"]
            yield number_of(entry["elem"]["val"]), counter["packets"], counter["bytes"]


def _elements(body: Mapping[str, Any]) -> Iterator[Element]:
    # nft writes one type as a string and several as a list, but joins those of a map's data with dots.
    key_types = [body["type"]] if isinstance(body["type"], str) else body["type"]
    data_types = str(body.get("map", "")).split(" . ")
    for entry in body.get("elem", ()):
        key, data = entry if "map" in body else (entry, None)
        if body["name"] in STATEMENTS:
            said = number_said(entry["elem"]) if isinstance(entry, dict) and "elem" in entry else None
            yield Element(body["name"], _atoms(_bare(key), key_types), () if said is None else (said,))
        else:
            yield Element(
                body["name"], _atoms(_bare(key), key_types), () if data is None else _atoms(_bare(data), data_types)
            )


def _bare(value: Any) -> Any:
    """Without the wrapping that an element with a counter has."""
    return value["elem"]["val"] if isinstance(value, dict) and "elem" in value else value


def _atoms(value: Any, types: Sequence[str]) -> tuple[str, ...]:
    values = value["concat"] if isinstance(value, dict) and "concat" in value else [value]
    return tuple(_atom(each, kind) for each, kind in zip(values, types, strict=False))


def _atom(value: Any, kind: str) -> str:
    match value:
        case {"prefix": {"addr": addr, "len": length}}:
            return f"{addr}/{length}"
        case {"range": [first, last]}:
            return f"{first}-{last}"
        case {"jump": {"target": chain}}:
            policy = policy_of(chain)
            return chain if policy is None else str(policy.limit)
        case int() if kind == "mark":
            return f"0x{value:08x}"
        case _:
            return str(value)
