"""Packets counted on a host of the lab by an nft table of the test's own: what came by, whoever let it or not."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kakuremichi.lab import namespaces
from kakuremichi.lab.internet import Lab

_TABLE = "inet seed_watch"
_PREFIX = "seen_"  # so that no name is a word of nft's


@dataclass(frozen=True, slots=True)
class Watch:
    lab: Lab
    host: str

    def packets(self) -> dict[str, int]:
        """How many packets each rule has matched so far."""
        listed = self.lab.run(self.host, ["nft", "-j", "list", "counters", "table", *_TABLE.split()], check=True).stdout
        found = (entry["counter"] for entry in json.loads(listed)["nftables"] if "counter" in entry)
        return {counter["name"].removeprefix(_PREFIX): counter["packets"] for counter in found}


@contextmanager
def watching(lab: Lab, host: str, rules: dict[str, str]) -> Iterator[Watch]:
    """Count what enters `host` and matches; `rules` maps a name to an nft match.

    The chain comes before conntrack and translation: it sees packets as they were on the wire, before anybody drops.
    """
    counters = "".join(f"  counter {_PREFIX}{name} {{ }}\n" for name in rules)
    lines = "".join(f"    {match} counter name {_PREFIX}{name}\n" for name, match in rules.items())
    chain = f"  chain entering {{\n    type filter hook prerouting priority -400; policy accept;\n{lines}  }}\n"
    namespaces.nft(lab.namespace(host), f"table {_TABLE} {{\n{counters}{chain}}}\n")
    try:
        yield Watch(lab, host)
    finally:
        namespaces.nft(lab.namespace(host), f"delete table {_TABLE}\n")
