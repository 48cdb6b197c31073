"""Partitions and losses as data, and the nft script that makes them. Pure.

They sit in the bridge family's prerouting hook, which sees every frame that enters a port, whether it is bridged
(control to a gateway) or routed (a visitor to a gateway). Nothing is tracked there, so cutting and healing leave
established connections alone, as a real outage does.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kakuremichi.lab.topology import Topology

TABLE = "bridge lab_faults"


@dataclass(frozen=True, slots=True)
class Fault:
    """Between two hosts `percent` of the packets vanish, in both directions. 100 is a partition."""

    host_a: str
    host_b: str
    percent: int = 100

    def __post_init__(self) -> None:
        if not 1 <= self.percent <= 100:
            raise ValueError(f"percent {self.percent}: a loss is from 1 to 100")


def script(topology: Topology, faults: Iterable[Fault]) -> str:
    """One transaction that replaces all faults by these. A host behind NAT stands for its whole site."""
    rules = "".join(f"    {rule}\n" for fault in faults for rule in _rules(topology, fault))
    chain = f"  chain ports {{\n    type filter hook prerouting priority 0; policy accept;\n{rules}  }}\n"
    # `add` first: deleting a table that is not there would fail the whole transaction.
    return f"add table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n{chain}}}\n"


def _rules(topology: Topology, fault: Fault) -> Iterator[str]:
    ends = topology.outside(fault.host_a).name, topology.outside(fault.host_b).name
    if ends[0] == ends[1]:
        raise ValueError(f"{fault.host_a} and {fault.host_b}: no packet between them crosses the backbone")
    chance = "" if fault.percent == 100 else f"numgen random mod 100 < {fault.percent} "
    for source, destination in (ends, ends[::-1]):
        yield f"ip saddr {topology.address(source)} ip daddr {topology.address(destination)} {chance}drop"
        source6, destination6 = topology.address6(source), topology.address6(destination)
        if source6 and destination6:
            yield f"ip6 saddr {source6} ip6 daddr {destination6} {chance}drop"
