"""Conntrack marks: the number of a service (gateway) or target (agent) is kept on each of its flows.

`0x6b000000 | number`. Agents use the upper half of the numbers, so both roles may run on one host and
neither takes the other's flows for its own.
"""

from typing import Literal

Proto = Literal["tcp", "udp"]

PREFIX = 0x6B000000
ROLE_MASK = 0xFF800000  # the prefix byte and the bit that tells the roles apart
GATEWAY_MARK = PREFIX
AGENT_MARK = PREFIX | 0x800000
SERVICE_NUMBERS = range(1, 0x800000)

_UDP = 0x010000


def mark_of(number: int) -> int:
    """The conntrack mark of a service or target number (1 to 2^24 - 1)."""
    return PREFIX | number


def number_of(mark: int) -> int:
    return mark & 0x00FFFFFF


def target_number(proto: Proto, agent_port: int) -> int:
    """An agent's number for the target behind (proto, first agent port). No state is needed to find it again."""
    return number_of(AGENT_MARK) | (_UDP if proto == "udp" else 0) | agent_port
