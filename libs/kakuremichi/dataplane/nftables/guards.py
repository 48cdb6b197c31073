"""What one visitor may take of a gateway before any limit of a service counts: against floods. Pure."""

from dataclasses import dataclass

from kakuremichi.dataplane.nftables.limits import CLIENT_TIMEOUT_S, CLIENTS, VISITOR, count_words, rate_words
from kakuremichi.dataplane.nftables.skeleton import Chain, Container

MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Guards:
    """Per IPv4 address or IPv6 /64, over all public ports of the gateway; 0 is no guard.

    Generous for a crowd behind one address. For each new connection the kernel walks through all that its source has
    open (some 40 ns each), so both numbers together bound what one source can cost: a sixth of one processor.
    """

    rate: int = 1000  # new flows a second, as many at once
    connections: int = 4096  # open TCP connections; UDP has no end that could be counted

    def __post_init__(self) -> None:
        for name, value in (("rate", self.rate), ("connections", self.connections)):
            if not 0 <= value <= MOST:
                raise ValueError(f"guard {name} {value}: 0 (none) to {MOST} is needed")


GUARDS = Guards()
GUARD_CONTAINERS = tuple(
    container
    for digit, (column, _) in VISITOR.items()
    for container in (
        Container(f"guard_rate{digit}", (column,), size=CLIENTS, timeout_s=CLIENT_TIMEOUT_S),
        Container(f"guard_conns{digit}", (column,), size=CLIENTS),
    )
)


# The first packet of a TCP connection, and what a flood is made of.
_SYN = "tcp flags & (fin | syn | rst | ack) == syn"
_LISTENER = "meta l4proto . th dport @listeners"


def guard_chain(guards: Guards) -> Chain:
    """First the rate: what it drops costs no look at the list of the visitor's open flows."""
    return Chain("guard", (*_rates(guards), *_counts(guards)))


def listener_chains(wg: str, guards: Guards) -> tuple[Chain, ...]:
    """New connections to programs of this host; `wg` is the tunnel's interface, quoted.

    What comes too fast there is dropped before the kernel has tracked it, where a SYN costs less than half of the time.
    """
    rates = _rates(guards)
    early = (f"{_SYN} {_LISTENER} iifname != {{ lo, {wg} }} fib daddr type local goto syn_rate",) if rates else ()
    return (
        Chain("syn_rate", rates),
        Chain("early", early, "filter hook prerouting priority raw"),
        Chain("held", _counts(guards)),
        # Its rate is counted already.
        Chain(
            "listener", (*((f"{_SYN} {_LISTENER} goto held",) if rates else ()), f"{_LISTENER} jump guard", "accept")
        ),
    )


def _rates(guards: Guards) -> tuple[str, ...]:
    return tuple(
        f"update @guard_rate{digit} {{ {visitor} {rate_words(guards.rate)} }} counter drop"
        for digit, (_, visitor) in VISITOR.items()
        if guards.rate
    )


def _counts(guards: Guards) -> tuple[str, ...]:
    return tuple(
        f"meta l4proto tcp add @guard_conns{digit} {{ {visitor} {count_words(guards.connections)} }} counter drop"
        for digit, (_, visitor) in VISITOR.items()
        if guards.connections
    )
