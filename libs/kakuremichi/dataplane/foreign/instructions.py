"""One expression of a rule as an instruction of ours. Pure. Layout: linux/netfilter/nf_tables.h."""

import struct
from collections.abc import Callable, Mapping
from typing import Literal

from kakuremichi.dataplane.foreign.program import (
    DROP,
    Bitwise,
    Compare,
    Decide,
    Instruction,
    Load,
    Lookup,
    Put,
    Unclear,
    Verdict,
    Within,
    XtMatch,
    XtTarget,
)
from kakuremichi.dataplane.links.netlink import attributes

Attributes = Mapping[int, memoryview]

# They neither end a rule nor move anything into a register.
_SILENT = frozenset(("counter", "log", "notrack", "last", "objref", "flow_offload", "dup"))
_OPERATIONS: tuple[Literal["==", "!=", "<", "<=", ">", ">="], ...] = ("==", "!=", "<", "<=", ">", ">=")
DATA_VALUE, DATA_VERDICT = 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_REGISTER_BYTES = 16


def instruction(name: str, found: Attributes) -> Instruction | None:
    """None for what changes nothing."""
    if name in _SILENT:
        return None
    make = _MAKERS.get(name)
    if make is None:
        return Unclear(name)
    try:
        return make(found)
    except (KeyError, IndexError, struct.error):
        return Unclear(name)


def text(payload: memoryview) -> str:
    """A name as the kernel writes it, with a zero at its end."""
    return bytes(payload).partition(b"\0")[0].decode(errors="replace")


def number(payload: memoryview) -> int:
    return int.from_bytes(payload, "big")


def verdict_of(body: memoryview) -> Verdict:
    """What is inside a verdict's attribute."""
    parts = dict(attributes(body))
    (code,) = struct.unpack(">i", parts[_VERDICT_CODE])
    return Verdict(code, text(parts[_VERDICT_CHAIN]) if _VERDICT_CHAIN in parts else "")


def register(payload: memoryview) -> int:
    """Where a register begins in the file: sixteen of four bytes each, or the same room as four of sixteen."""
    given = number(payload)
    return (given - 1) * _REGISTER_BYTES if given < 8 else (given - 8) * 4


def _load(what: Literal["meta", "ct"]) -> Callable[[Attributes], Instruction | None]:
    def make(found: Attributes) -> Instruction | None:
        if 1 not in found:
            return None  # it writes the packet's or the flow's, and reads nothing
        return Load(what, register(found[1]), number(found[2]))

    return make


def _payload(found: Attributes) -> Instruction | None:
    if 1 not in found:
        return None
    return Load("payload", register(found[1]), number(found[2]), number(found[3]), number(found[4]))


def _other(found: Attributes) -> Instruction:
    """Something of which only the register is known: where a packet came from, what a look-up says."""
    return Load("other", register(found[1]))


def _bitwise(found: Attributes) -> Instruction:
    operation = number(found[6]) if 6 in found else 0
    mask, xor = (b"", b"") if operation else (_value(found[4]), _value(found[5]))
    return Bitwise(register(found[1]), register(found[2]), number(found[3]), mask, xor)


def _cmp(found: Attributes) -> Instruction:
    return Compare(register(found[1]), _OPERATIONS[number(found[2])], _value(found[3]))


def _range(found: Attributes) -> Instruction:
    return Within(register(found[1]), _value(found[3]), _value(found[4]), inverted=bool(number(found[2])))


def _lookup(found: Attributes) -> Instruction:
    to = number(found[3]) if 3 in found else None
    inverted = 5 in found and bool(number(found[5]) & 1)
    return Lookup(register(found[2]), text(found[1]), inverted, to == 0, register(found[3]) if to else None)


def _immediate(found: Attributes) -> Instruction:
    data = dict(attributes(found[2]))
    if DATA_VERDICT in data:
        return Decide(verdict_of(data[DATA_VERDICT]))
    return Put(register(found[1]), bytes(data[DATA_VALUE]))


def _reject(_found: Attributes) -> Instruction:
    return Decide(Verdict(DROP))


def _match(found: Attributes) -> Instruction:
    return XtMatch(text(found[1]), number(found[2]), bytes(found[3]))


def _target(found: Attributes) -> Instruction:
    return XtTarget(text(found[1]))


def _value(payload: memoryview) -> bytes:
    return bytes(dict(attributes(payload))[DATA_VALUE])


_MAKERS: dict[str, Callable[[Attributes], Instruction | None]] = {
    "meta": _load("meta"),
    "ct": _load("ct"),
    "payload": _payload,
    "fib": _other,
    "rt": _other,
    "exthdr": _other,
    "bitwise": _bitwise,
    "cmp": _cmp,
    "range": _range,
    "lookup": _lookup,
    "immediate": _immediate,
    "reject": _reject,
    "match": _match,
    "target": _target,
}
