"""One rule run on one packet: whether it applies, and what it says then. Pure.

Bytes that cannot be known are None in the registers, and what depends on them has no answer.
"""

from dataclasses import dataclass, field

from kakuremichi.dataplane.foreign import xt
from kakuremichi.dataplane.foreign.packet import Bytes, Packet, load
from kakuremichi.dataplane.foreign.program import (
    DROP,
    Bitwise,
    Compare,
    Decide,
    Instruction,
    Load,
    Lookup,
    Place,
    Put,
    Rule,
    Ruleset,
    SetContent,
    SetElement,
    Verdict,
    Within,
    XtMatch,
    XtTarget,
)

_FILE_BYTES = 2 * 64  # sixteen registers of four bytes, and room behind the last for what is longer

Verdicts = tuple[Verdict | None, ...]  # one of them is given; None is one that we do not know


def run(rule: Rule, packet: Packet, ruleset: Ruleset, base: Place) -> tuple[bool | None, Verdicts]:
    """Whether the rule applies (None: who knows), and its verdicts; without any it has nothing to say."""
    machine = _Machine(packet, ruleset, base)
    applies: bool | None = True
    for each in rule.instructions:
        said, verdicts = machine.step(each)
        if applies is False or said is False:
            return False, ()
        applies = None if None in (applies, said) else True
        if verdicts:
            return applies, verdicts
    return applies, ()


@dataclass
class _Machine:
    packet: Packet
    ruleset: Ruleset
    base: Place
    file: list[int | None] = field(default_factory=lambda: [None] * _FILE_BYTES)

    def step(self, each: Instruction) -> tuple[bool | None, Verdicts]:
        """Whether the rule goes on behind the instruction, and the verdicts if it ends there."""
        match each:
            case Decide(verdict):
                return True, (verdict,)
            case XtTarget(name):
                passing = name in xt.PASSING
                return True, () if passing else (Verdict(DROP) if name in xt.DROPPING else None,)
            case Lookup():
                return self._look_up(each)
            case Load() | Put() | Bitwise():
                self._write(each)
                return True, ()
            case _:
                return self._ask(each), ()

    def _write(self, each: Load | Put | Bitwise) -> None:
        match each:
            case Load(to=to):
                self._put(to, load(self.packet, each))
            case Put(to, value):
                self._put(to, tuple(value))
            case Bitwise(to=to):
                self._put(to, _masked(self._take(each.source, each.length), each))

    def _ask(self, each: Instruction) -> bool | None:
        match each:
            case Compare(source, operation, value):
                return compared(self._take(source, len(value)), operation, value)
            case Within(source, first, last, inverted):
                key = self._take(source, len(first))
                return None if None in key else (first <= _exact(key) <= last) != inverted
            case XtMatch(name, revision, info):
                return xt.matches(name, revision, info, self.packet)
            case _:
                self.file = [None] * _FILE_BYTES  # it may have written any of them
                return None

    def _look_up(self, each: Lookup) -> tuple[bool | None, Verdicts]:
        content = self.ruleset.sets.get((self.base.family, self.base.table, each.set_name))
        if each.to is not None:
            self._put(each.to, (None,) * 16)
        if content is None:
            return None, (None,) if each.verdicts else ()
        key = self._take(each.source, len(content.elements[0].key) if content.elements else 0)
        hits = _interval_hits(key, content) if content.interval else _hits(key, content)
        if not hits:
            return each.inverted, ()
        found = None if None in key else not each.inverted
        return found, tuple({element.verdict for element in hits}) if each.verdicts else ()

    def _put(self, to: int, value: Bytes) -> None:
        self.file[to : to + len(value)] = value

    def _take(self, source: int, length: int) -> Bytes:
        return tuple(self.file[source : source + length])


def compared(have: Bytes, operation: str, want: bytes) -> bool | None:
    """None where an unknown byte decides."""
    if operation in ("==", "!="):
        differ = any(byte is not None and byte != other for byte, other in zip(have, want, strict=True))
        if not differ and None in have:
            return None
        return differ == (operation == "!=")
    if None in have:
        return None
    key = _exact(have)
    return {"<": key < want, "<=": key <= want, ">": key > want, ">=": key >= want}[operation]


def _masked(source: Bytes, each: Bitwise) -> Bytes:
    if not each.mask:
        return (None,) * each.length
    return tuple(
        xor if mask == 0 else None if byte is None else byte & mask ^ xor
        for byte, mask, xor in zip(source, each.mask, each.xor, strict=True)
    )


def _hits(key: Bytes, content: SetContent) -> list[SetElement]:
    return [element for element in content.elements if compared(key, "==", element.key) is not False]


def _interval_hits(key: Bytes, content: SetContent) -> list[SetElement]:
    """An element that begins an interval holds until the next one; one that ends it stands before a new begin."""
    if None in key:
        return [element for element in content.elements if not element.ends]
    ordered = sorted(content.elements, key=lambda element: (element.key, not element.ends))
    below = [element for element in ordered if element.key <= _exact(key)]
    return [below[-1]] if below and not below[-1].ends else []


def _exact(value: Bytes) -> bytes:
    return bytes(byte for byte in value if byte is not None)
