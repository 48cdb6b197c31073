"""The one accept that lets our packets pass a foreign chain: where, as a command and as a message. Pure.

A table that iptables made gets the rule in iptables' own words: one that it cannot read, as `ct mark` of nft, makes
`iptables -S` and `-C` refuse the whole table, and Docker and ufw with them.
"""

import re
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from kakuremichi.dataplane.foreign.messages import rule_body
from kakuremichi.dataplane.foreign.packet import PROTOCOLS
from kakuremichi.dataplane.foreign.program import ACCEPT, Place, Ruleset
from kakuremichi.dataplane.links.netlink import attribute, nested
from kakuremichi.dataplane.nftables.marks import Proto

COMMENT = "kakuremichi"  # the mark on the rules that are ours in tables that are not

# Chains that these programs leave to their users, or rebuild by themselves; the first one on a packet's way is taken.
_MEANT = re.compile(r"\A(DOCKER-USER|ufw6?-before-(input|forward)|(filter_)?(IN|FWD|FWDI|FWDO)_.+_allow)\Z", re.ASCII)
# What iptables 1.8 makes rules of, and reads back.
_OF_IPTABLES = frozenset(
    ("match", "target", "meta", "payload", "cmp", "bitwise", "range", "lookup", "counter", "immediate", "limit", "log")
)
_MADE_BY_IPTABLES = frozenset((("filter", "INPUT"), ("filter", "FORWARD")))
_REGISTER = 1
_CT_MARK, _META_L4PROTO, _TRANSPORT = 3, 16, 2
_XT_MARK_INFO = struct.Struct("=IIB7x")  # mark mask invert, filled up to a multiple of eight bytes
_XT_COMMENT_BYTES = 256


@dataclass(frozen=True, slots=True)
class Marked:
    """Flows whose mark, looked at through the mask, is `value`."""

    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class ToPort:
    """What comes to a port of this host."""

    proto: Proto
    port: int


Accept = Marked | ToPort


@dataclass(frozen=True, slots=True)
class Mending:
    """One accept at the head of a chain."""

    place: Place
    accept: Accept
    iptables: bool  # whether the table is one that iptables made

    @property
    def command(self) -> str:
        """What a person would type."""
        if self.iptables:
            program = "ip6tables" if self.place.family == "ip6" else "iptables"
            return f"{program} -I {self.place.chain} {_iptables(self.accept)} -j ACCEPT"
        return f"nft insert rule {self.place} {_nft(self.accept)} accept"

    @property
    def comment(self) -> str:
        """How we find the rule again, whatever wrote it: nft lists several matches otherwise than they were put."""
        return f"{COMMENT} {_nft(self.accept)}"

    def message(self) -> bytes:
        """The body of the netlink message that makes the rule."""
        expressions = _match(self.accept, iptables=self.iptables)
        if self.iptables:
            expressions += _xt("comment", 0, self.comment.encode().ljust(_XT_COMMENT_BYTES, b"\0"))
        expressions += _expression("counter", b"") + _accept()
        return rule_body(self.place, expressions, "" if self.iptables else self.comment)


def mending_for(ruleset: Ruleset, base: Place, reached: Iterable[str], accept: Accept) -> Mending:
    """`reached` are the chains that the packet meets before it may be dropped, in their order."""
    chain = next((name for name in reached if _MEANT.match(name)), base.chain)
    names = ruleset.names.get((base.family, base.table), frozenset())
    iptables = (base.table, base.chain) in _MADE_BY_IPTABLES and base.family != "inet" and names <= _OF_IPTABLES
    return Mending(base._replace(chain=chain), accept, iptables)


def is_there(ruleset: Ruleset, mending: Mending) -> bool:
    return any(rule.comment == mending.comment for rule in ruleset.rules.get(mending.place, ()))


def _nft(accept: Accept) -> str:
    match accept:
        case Marked(value, mask):
            return f"ct mark and {mask:#010x} == {value:#010x}"
        case ToPort(proto, port):
            return f"{proto} dport {port}"


def _iptables(accept: Accept) -> str:
    match accept:
        case Marked(value, mask):
            return f"-m connmark --mark {value:#010x}/{mask:#010x}"
        case ToPort(proto, port):
            return f"-p {proto} --dport {port}"


def _match(accept: Accept, *, iptables: bool) -> bytes:
    match accept:
        case ToPort(proto, port):
            return (
                _load("meta", (2, _META_L4PROTO), to=1)
                + _equal(bytes((PROTOCOLS[proto],)))
                + _load("payload", (2, _TRANSPORT), (3, 2), (4, 2), to=1)
                + _equal(struct.pack(">H", port))
            )
        case Marked(value, mask) if iptables:
            return _xt("connmark", 1, _XT_MARK_INFO.pack(value, mask, 0))
        case Marked(value, mask):
            return _load("ct", (2, _CT_MARK), to=1) + _and(_word(mask)) + _equal(_word(value))


def _load(name: str, *numbers: tuple[int, int], to: int) -> bytes:
    return _expression(name, _number(to, _REGISTER) + b"".join(_number(kind, value) for kind, value in numbers))


def _and(mask: bytes) -> bytes:
    registers = _number(1, _REGISTER) + _number(2, _REGISTER) + _number(3, len(mask))
    return _expression("bitwise", registers + _value(4, mask) + _value(5, bytes(len(mask))))


def _equal(value: bytes) -> bytes:
    return _expression("cmp", _number(1, _REGISTER) + _number(2, 0) + _value(3, value))


def _accept() -> bytes:
    return _expression("immediate", _number(1, 0) + nested(2, nested(2, _number(1, ACCEPT))))


def _xt(name: str, revision: int, info: bytes) -> bytes:
    return _expression("match", attribute(1, name.encode() + b"\0") + _number(2, revision) + attribute(3, info))


def _expression(name: str, data: bytes) -> bytes:
    return nested(1, attribute(1, name.encode() + b"\0") + nested(2, data))


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def _value(kind: int, value: bytes) -> bytes:
    return nested(kind, attribute(1, value))


def _word(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)
