"""Messages of nf_tables as rules and sets, and one rule as a message. Pure. Layout: linux/netfilter/nf_tables.h."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from kakuremichi.dataplane.foreign.instructions import DATA_VALUE, DATA_VERDICT, instruction, number, text, verdict_of
from kakuremichi.dataplane.foreign.program import (
    ACCEPT,
    BaseChain,
    Hook,
    Instruction,
    Place,
    Rule,
    SetElement,
    XtMatch,
)
from kakuremichi.dataplane.links.netlink import attribute, attributes

_SUBSYSTEM = 10 << 8
GET_CHAINS, GET_RULES, GET_SETS, GET_ELEMENTS = (_SUBSYSTEM | number for number in (4, 7, 10, 13))
NEW_RULE, NEW_GENERATION = _SUBSYSTEM | 6, _SUBSYSTEM | 15
GROUP = 1 << 6  # NFNLGRP_NFTABLES

FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
_NUMBERS = {name: number for number, name in FAMILIES.items()}
_HOOKS: dict[int, Hook] = {1: "input", 2: "forward"}
_HEAD = struct.Struct(">BBH")  # nfgenmsg: family version resource

_TABLE = 1  # of every kind of message the first attribute is the table's name
_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE, _HOOK_NUMBER = 3, 4, 5, 7, 1
_RULE_CHAIN, _RULE_EXPRESSIONS, _RULE_USERDATA = 2, 4, 7
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_SET_NAME, _SET_FLAGS, _SET_DATA_TYPE = 2, 3, 6
_SET_ANONYMOUS, SET_INTERVAL, SET_CONCAT = 0x1, 0x4, 0x80
_DATA_IS_VERDICT = 0xFFFFFF00
_ELEMENTS, _ELEMENT_KEY, _ELEMENT_DATA, _ELEMENT_FLAGS, _ELEMENT_KEY_END = 3, 1, 2, 3, 10
_ELEMENT_ENDS, _ELEMENT_CATCHALL = 0x1, 0x2
_COMMENT_TYPE = 0  # in a rule's user data, by nft's own convention


class SetHead(NamedTuple):
    family: str
    table: str
    name: str
    known: bool  # whether its elements are worth asking for: they belong to a rule, or they are verdicts
    interval: bool
    concatenated: bool


def table_of(body: memoryview) -> tuple[str, str]:
    """Family and table of any message of the group; "" where there is none."""
    family = FAMILIES.get(body[0], "")
    name = next((text(payload) for kind, payload in attributes(body, _HEAD.size) if kind == _TABLE), "")
    return family, name


def dump_body(family: str = "", table: str = "", set_name: str = "") -> bytes:
    """What to ask for: everything, one table's, or the elements of one set."""
    body = _HEAD.pack(_NUMBERS.get(family, 0), 0, 0)
    body += attribute(_TABLE, _zero(table)) if table else b""
    return body + (attribute(_SET_NAME, _zero(set_name)) if set_name else b"")


def parse_chain(body: memoryview) -> BaseChain | None:
    """None for all but the filtering base chains of input and forward."""
    family, table = table_of(body)
    found = dict(attributes(body, _HEAD.size))
    if not family or _CHAIN_HOOK not in found or text(found.get(_CHAIN_TYPE, memoryview(b""))) != "filter":
        return None
    hook = _HOOKS.get(number(dict(attributes(found[_CHAIN_HOOK]))[_HOOK_NUMBER]))
    if hook is None:
        return None
    drops = _CHAIN_POLICY in found and number(found[_CHAIN_POLICY]) != ACCEPT
    return BaseChain(Place(family, table, text(found[_CHAIN_NAME])), hook, drops)


def parse_rule(body: memoryview) -> tuple[Place, Rule] | None:
    family, table = table_of(body)
    found = dict(attributes(body, _HEAD.size))
    if not family or _RULE_CHAIN not in found:
        return None
    instructions: list[Instruction] = []
    names = set()
    for _, expression in attributes(found.get(_RULE_EXPRESSIONS, memoryview(b""))):
        parts = dict(attributes(expression))
        name = text(parts[_EXPRESSION_NAME])
        names.add(name)
        made = instruction(name, dict(attributes(parts.get(_EXPRESSION_DATA, memoryview(b"")))))
        if made is not None:
            instructions.append(made)
    comment = _comment(found.get(_RULE_USERDATA)) or _xt_comment(instructions)
    return Place(family, table, text(found[_RULE_CHAIN])), Rule(tuple(instructions), comment, frozenset(names))


def parse_set(body: memoryview) -> SetHead | None:
    family, table = table_of(body)
    found = dict(attributes(body, _HEAD.size))
    if not family or _SET_NAME not in found:
        return None
    flags = number(found[_SET_FLAGS]) if _SET_FLAGS in found else 0
    verdicts = _SET_DATA_TYPE in found and number(found[_SET_DATA_TYPE]) == _DATA_IS_VERDICT
    known = bool(flags & _SET_ANONYMOUS) or verdicts
    return SetHead(family, table, text(found[_SET_NAME]), known, bool(flags & SET_INTERVAL), bool(flags & SET_CONCAT))


def parse_elements(body: memoryview) -> Iterator[SetElement | None]:
    """None for an element that we cannot follow: the whole set is unclear then."""
    found = dict(attributes(body, _HEAD.size))
    for _, element in attributes(found.get(_ELEMENTS, memoryview(b""))):
        parts = dict(attributes(element))
        flags = number(parts[_ELEMENT_FLAGS]) if _ELEMENT_FLAGS in parts else 0
        if _ELEMENT_KEY not in parts or _ELEMENT_KEY_END in parts or flags & _ELEMENT_CATCHALL:
            yield None
            continue
        key = bytes(dict(attributes(parts[_ELEMENT_KEY]))[DATA_VALUE])
        told = dict(attributes(parts[_ELEMENT_DATA])) if _ELEMENT_DATA in parts else {}
        verdict = verdict_of(told[DATA_VERDICT]) if DATA_VERDICT in told else None
        yield SetElement(key, bool(flags & _ELEMENT_ENDS), verdict)


def rule_body(place: Place, expressions: bytes, comment: str) -> bytes:
    """What follows the netlink header of a new rule; `comment` is stored as nft stores one ("": none)."""
    note = comment.encode() + b"\0"
    userdata = attribute(_RULE_USERDATA, bytes((_COMMENT_TYPE, len(note))) + note) if comment else b""
    return (
        _HEAD.pack(_NUMBERS[place.family], 0, 0)
        + attribute(_TABLE, _zero(place.table))
        + attribute(_RULE_CHAIN, _zero(place.chain))
        + attribute(_RULE_EXPRESSIONS, expressions)
        + userdata
    )


def _zero(name: str) -> bytes:
    return name.encode() + b"\0"


def _comment(userdata: memoryview | None) -> str:
    """One byte type, one byte length, value; again and again."""
    place = 0
    while userdata is not None and place + 2 <= len(userdata):
        kind, length = userdata[place], userdata[place + 1]
        if kind == _COMMENT_TYPE:
            return text(userdata[place + 2 : place + 2 + length])
        place += 2 + length
    return ""


def _xt_comment(instructions: list[Instruction]) -> str:
    infos = [each.info for each in instructions if isinstance(each, XtMatch) and each.name == "comment"]
    return text(memoryview(infos[0])) if infos else ""
