"""What becomes of a packet in one base chain: every outcome that is possible. Pure.

Where a condition cannot be known both ways are gone, so an outcome that stands alone is certain.
"""

from dataclasses import dataclass, field
from enum import Enum, auto

from kakuremichi.dataplane.foreign.machine import run
from kakuremichi.dataplane.foreign.packet import Packet
from kakuremichi.dataplane.foreign.program import (
    ACCEPT,
    BREAK,
    CONTINUE,
    DROP,
    GOTO,
    JUMP,
    RETURN,
    BaseChain,
    Place,
    Rule,
    Ruleset,
    Verdict,
)

_MOST_JUMPS = 32  # the kernel allows 16 levels; a loop cannot be loaded


class Outcome(Enum):
    ACCEPT = auto()
    DROP = auto()
    OTHER = auto()  # given to a program, or something that we do not know
    END = auto()  # the chain ends without a word


@dataclass
class Walk:
    """`reached` are the chains whose first rule the packet meets for certain, before anything could drop it."""

    outcomes: frozenset[Outcome]
    reached: tuple[str, ...]

    @property
    def drops(self) -> bool:
        """Whether it is dropped for certain."""
        return self.outcomes == {Outcome.DROP}


def walk(ruleset: Ruleset, base: BaseChain, packet: Packet) -> Walk:
    """The packet's way through the base chain; its hook is the chain's."""
    steps = _Steps(ruleset, packet, base.place)
    outcomes = steps.chain(base.place.chain, certain=True)
    if Outcome.END in outcomes:
        outcomes = outcomes - {Outcome.END} | {Outcome.DROP if base.drops else Outcome.ACCEPT}
    return Walk(frozenset(outcomes), tuple(steps.reached))


@dataclass
class _Steps:
    ruleset: Ruleset
    packet: Packet
    base: Place
    reached: list[str] = field(default_factory=list)
    known: dict[str, frozenset[Outcome]] = field(default_factory=dict)  # a chain says the same at every call
    level: int = 0
    may_drop: bool = False

    def chain(self, name: str, *, certain: bool) -> set[Outcome]:
        if self.level > _MOST_JUMPS:
            return {Outcome.OTHER}
        if certain and not self.may_drop:
            self.reached.append(name)
        if name in self.known:
            return set(self.known[name])
        self.level += 1
        outcomes: set[Outcome] = set()
        for rule in self.ruleset.rules.get(self.base._replace(chain=name), ()):
            passes = self._rule(rule, outcomes, certain=certain)
            self.may_drop = self.may_drop or Outcome.DROP in outcomes
            if passes is False:
                break
        else:
            outcomes.add(Outcome.END)
        self.level -= 1
        self.known[name] = frozenset(outcomes)
        return outcomes

    def _rule(self, rule: Rule, outcomes: set[Outcome], *, certain: bool) -> bool:
        """Add what the rule may lead to; whether the next one may be met."""
        applies, verdicts = run(rule, self.packet, self.ruleset, self.base)
        if applies is False or not verdicts:
            return True
        sure = applies is True and len(verdicts) == 1
        goes_on = [self._verdict(verdict, outcomes, certain=certain and sure) for verdict in verdicts]
        return applies is None or any(goes_on)

    def _verdict(self, verdict: Verdict | None, outcomes: set[Outcome], *, certain: bool) -> bool:
        """Whether the chain may go on behind it."""
        match verdict:
            case Verdict(code=code) if code in (CONTINUE, BREAK):
                return True
            case Verdict(code=code) if code == RETURN:
                outcomes.add(Outcome.END)
                return False
            case Verdict(code=code, chain=chain) if code in (JUMP, GOTO):
                found = self.chain(chain, certain=certain)
                if code == GOTO:
                    outcomes |= found
                    return False
                outcomes |= found - {Outcome.END}
                return Outcome.END in found
            case Verdict(code=code) if code in (ACCEPT, DROP):
                outcomes.add(Outcome.ACCEPT if code == ACCEPT else Outcome.DROP)
                return False
            case _:
                outcomes.add(Outcome.OTHER)
                return verdict is None  # unknown: perhaps nothing at all
