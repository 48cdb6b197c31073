"""Rules as the kernel holds them: small instructions over registers. Layouts: linux/netfilter/nf_tables.h. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

Hook = Literal["input", "forward"]

DROP, ACCEPT = 0, 1
CONTINUE, BREAK, JUMP, GOTO, RETURN = -1, -2, -3, -4, -5


class Verdict(NamedTuple):
    """`code` as the kernel numbers it; a chain for JUMP and GOTO."""

    code: int
    chain: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """Bring something of the packet into the register file at byte `to`. `key` is the kernel's number of it.

    For a payload `key` is the base (network 1, transport 2), and offset and length are in bytes.
    """

    what: Literal["meta", "ct", "payload", "other"]
    to: int
    key: int = 0
    offset: int = 0
    length: int = 16


@dataclass(frozen=True, slots=True)
class Bitwise:
    """`mask` and `xor` are empty for the operations that we do not follow: shifts, and two registers."""

    source: int
    to: int
    length: int
    mask: bytes
    xor: bytes


@dataclass(frozen=True, slots=True)
class Compare:
    source: int
    operation: Literal["==", "!=", "<", "<=", ">", ">="]
    value: bytes


@dataclass(frozen=True, slots=True)
class Within:
    source: int
    first: bytes
    last: bytes
    inverted: bool


@dataclass(frozen=True, slots=True)
class Lookup:
    """A condition; with `verdicts` a map of them; with `to` a map into the register file."""

    source: int
    set_name: str
    inverted: bool = False
    verdicts: bool = False
    to: int | None = None


@dataclass(frozen=True, slots=True)
class Put:
    to: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Decide:
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class XtMatch:
    """A match of iptables, run by nftables: its name, revision and the C structure of its options."""

    name: str
    revision: int
    info: bytes


@dataclass(frozen=True, slots=True)
class XtTarget:
    name: str


@dataclass(frozen=True, slots=True)
class Unclear:
    """Something that may end the rule or not: a limit, a quota, what we do not know."""

    name: str


Instruction = Load | Bitwise | Compare | Within | Lookup | Put | Decide | XtMatch | XtTarget | Unclear


@dataclass(frozen=True, slots=True)
class Rule:
    """Instructions without those that change nothing (counters, logs); `comment` is nft's or iptables'."""

    instructions: tuple[Instruction, ...]
    comment: str = ""
    names: frozenset[str] = frozenset()  # of every expression in it, as the kernel calls them


class Place(NamedTuple):
    """A chain: `ip filter FORWARD` as people write it."""

    family: str
    table: str
    chain: str

    def __str__(self) -> str:
        return " ".join(self)


class BaseChain(NamedTuple):
    place: Place
    hook: Hook
    drops: bool  # its policy


class SetElement(NamedTuple):
    key: bytes
    ends: bool = False  # of an interval: the first key behind it
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class SetContent:
    """A set whose elements we know. Those of named sets are left to their owners, and not known."""

    elements: tuple[SetElement, ...]
    interval: bool = False


@dataclass(frozen=True)
class Ruleset:
    """Every table but ours that can stop a packet to or through this host."""

    bases: tuple[BaseChain, ...] = ()
    rules: Mapping[Place, tuple[Rule, ...]] = field(default_factory=dict)
    sets: Mapping[tuple[str, str, str], SetContent] = field(default_factory=dict)  # family, table, name

    @cached_property
    def names(self) -> Mapping[tuple[str, str], frozenset[str]]:
        """By family and table: which expressions its rules are made of."""
        found: dict[tuple[str, str], frozenset[str]] = {}
        for place, rules in self.rules.items():
            table = (place.family, place.table)
            found[table] = found.get(table, frozenset()).union(*(rule.names for rule in rules))
        return found
