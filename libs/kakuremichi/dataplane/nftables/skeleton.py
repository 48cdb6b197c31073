"""The part of a table that does not change with its services: sets, maps, chains and rules, as data."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property

COMMENT = "kakuremichi"

_INTERFACE = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,14}\Z")
_TABLE = re.compile(r"\A[A-Za-z][A-Za-z0-9_]{0,30}\Z")


@dataclass(frozen=True, slots=True)
class Container:
    """A set, or a map if it has `data`. The column names are nft's data types.

    With a `statement` each element has one of its kind with its own number; what is declared here is never used.
    The kernel itself fills a `size`d set from packets: its elements are nobody's wish and never compared.
    """

    name: str
    key: tuple[str, ...]
    data: tuple[str, ...] = ()
    interval: bool = False
    counter: bool = False
    statement: str = ""
    size: int = 0
    timeout_s: int = 0


@dataclass(frozen=True, slots=True)
class Chain:
    """`hook` is the text after `type`, empty for a chain that is only jumped to."""

    name: str
    rules: tuple[str, ...]
    hook: str = ""


@dataclass(frozen=True)
class Skeleton:
    containers: tuple[Container, ...]
    chains: tuple[Chain, ...]  # a chain stands before those that jump to it
    templates: str = ""  # what elements bring along when they are added

    @cached_property
    def version(self) -> str:
        """Changes with every character of the skeleton: sixteen hex digits of a SHA-256."""
        return hashlib.sha256(repr((self.containers, self.chains, self.templates)).encode()).hexdigest()[:16]

    @cached_property
    def rule_ids(self) -> frozenset[tuple[str, tuple[str, ...]]]:
        """Per chain, the comments of its rules in order, as the kernel must list them back.

        nft 1.0.6 lists several expressions otherwise than they were written, and leaves the comments of tables and
        chains out of its JSON. The comments of rules are there: they carry the version and the place.
        """
        return frozenset(
            (chain.name, tuple(self.comment(chain, place) for place in range(len(chain.rules))))
            for chain in self.chains
            if chain.rules
        )

    def comment(self, chain: Chain, place: int) -> str:
        return f"{COMMENT} {self.version} {chain.name} {place}"


def check_interface(name: str) -> str:
    """The name if it may stand in a rule; nft would read `*` as a wildcard and a quote as the end of the name."""
    if not _INTERFACE.match(name):
        raise ValueError(f"interface {name!r}: 1 to 15 of letters, digits, '_', '.' and '-' are needed")
    return name


def check_table_name(name: str) -> str:
    if not _TABLE.match(name):
        raise ValueError(f"table {name!r}: a letter, then up to 30 letters, digits and '_' are needed")
    return name
