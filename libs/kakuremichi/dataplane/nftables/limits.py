"""Limits in the words of nft. Pure.

An element of a limiting set carries its own number, so one rule serves every service and a service without limits has
no element. Only a limit per visitor needs rules of its own: the kernel copies it from the rule into each visitor's
element. Such a *policy* is a chain with its sets, made with the first element that names its number.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kakuremichi.dataplane.nftables.skeleton import COMMENT, Container

Words = Callable[[int], str]

# In one look-up both a SYN flood from everywhere and a crowd behind one address must find room; 4 MiB at most.
CLIENTS = 65535
CLIENT_TIMEOUT_S = 60
_LARGEST_PACKET = 65536  # bytes, as the kernel joins segments: one larger than the whole allowance would never pass
_UNITS = {"bytes": 1, "kbytes": 1024, "mbytes": 1024**2}

# The kernel keeps bandwidth as nanoseconds times bytes in 64 bits.
MAX_BANDWIDTH = 2**33


def rate_words(limit: int) -> str:
    """New flows a second; as many at once."""
    return f"limit rate over {limit}/second burst {limit} packets"


def bandwidth_words(limit: int) -> str:
    """Bytes a second. The kernel lets a second's worth and the burst through at once."""
    return f"limit rate over {limit} bytes/second burst {_LARGEST_PACKET} bytes"


def count_words(limit: int) -> str:
    """Flows that are open at once."""
    return f"ct count over {limit}"


# Containers whose elements hold a number and not a value to look up.
STATEMENTS: Mapping[str, Words] = {
    "rate": rate_words,
    "conns": count_words,
    "bandwidth": bandwidth_words,
    "shaped": bandwidth_words,
    "shaped6": bandwidth_words,
}


class Policy(NamedTuple):
    """One limit per visitor, for every service that asks for this very number."""

    container: str  # a key of :data:`POLICIES`
    limit: int

    @property
    def chain(self) -> str:
        return f"{self.container}_{self.limit}"

    def comment(self, place: int) -> str:
        return f"{COMMENT} {self.chain} {place}"


@dataclass(frozen=True, slots=True)
class _Kind:
    words: Words
    verb: str  # `update` renews an element's timeout; a counted one lasts as long as its flows
    timeout: bool
    verdict: str


POLICIES: Mapping[str, _Kind] = {
    "client_rate": _Kind(rate_words, "update", timeout=True, verdict="goto too_fast"),
    "client_conns": _Kind(count_words, "add", timeout=False, verdict="goto too_many"),
}

CONTAINERS = (
    Container("limited", ("mark",)),  # services with any limit on new flows: for the others this is the only look-up
    Container("refused", ("mark",), counter=True),
    *(Container(name, ("mark",), ("verdict",)) for name in POLICIES),
    Container("rate", ("mark",), statement=rate_words(1)),
    Container("conns", ("mark",), statement=count_words(1)),
    Container("bandwidth", ("mark",), statement=bandwidth_words(1)),
    Container("shaped", ("ipv4_addr", "inet_service"), statement=bandwidth_words(1)),
    Container("shaped6", ("ipv6_addr", "inet_service"), statement=bandwidth_words(1)),
)

# Per visitor: an IPv4 address or an IPv6 /64, which is what one customer gets.
VISITOR = {"4": ("ipv4_addr", "ip saddr"), "6": ("ipv6_addr", "ip6 saddr & ffff:ffff:ffff:ffff::")}


def policy_rules(policy: Policy) -> tuple[str, ...]:
    kind = POLICIES[policy.container]
    return tuple(
        f"{kind.verb} @{policy.chain}_{digit} {{ ct mark . {visitor} {kind.words(policy.limit)} }} {kind.verdict}"
        for digit, (_, visitor) in VISITOR.items()
    )


def policy_script(policy: Policy, table: str) -> str:
    """Make it, whether or not it is there: the flush lets its rules be added again without doubling them."""
    kind = POLICIES[policy.container]
    flags = f"flags dynamic,timeout; timeout {CLIENT_TIMEOUT_S}s;" if kind.timeout else "flags dynamic;"
    sets = "".join(
        f"add set inet {table} {policy.chain}_{digit} {{ type mark . {column}; size {CLIENTS}; {flags} }}\n"
        for digit, (column, _) in VISITOR.items()
    )
    chain = f"add chain inet {table} {policy.chain}\nflush chain inet {table} {policy.chain}\n"
    rules = "".join(
        f'add rule inet {table} {policy.chain} {rule} comment "{policy.comment(place)}"\n'
        for place, rule in enumerate(policy_rules(policy))
    )
    return sets + chain + rules


def policy_removal(policy: Policy, table: str) -> str:
    sets = "".join(f"delete set inet {table} {policy.chain}_{digit}\n" for digit in VISITOR)
    return f"flush chain inet {table} {policy.chain}\ndelete chain inet {table} {policy.chain}\n{sets}"


def policy_of(chain: str) -> Policy | None:
    """The policy whose chain has this name."""
    container, _, limit = chain.rpartition("_")
    return Policy(container, int(limit)) if container in POLICIES and limit.isdigit() else None


def policies_of(places: Iterable[tuple[str, tuple[str, ...]]]) -> frozenset[Policy]:
    """Those that elements need, given as (container, data)."""
    return frozenset(Policy(name, int(data[0])) for name, data in places if name in POLICIES)


def templates() -> str:
    """All that a release makes on demand, as one text: with another one the table is another version."""
    names = [Policy(name, 1) for name in POLICIES]
    words = [words(10**6) for words in STATEMENTS.values()]
    return "".join([*(policy_script(name, "t") for name in names), *words])


def number_said(entry: Mapping[str, Any]) -> str | None:
    """The number in the statement of an element as nft's JSON tells it; None if it has none.

    nft writes bytes in the largest unit that divides them.
    """
    if count := entry.get("ct count"):
        return str(count["val"])
    if limit := entry.get("limit"):
        return str(limit["rate"] * _UNITS[limit.get("rate_unit", "bytes")])
    return None
