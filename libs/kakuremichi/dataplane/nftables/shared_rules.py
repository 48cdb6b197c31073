"""Rules that stand in the tables of both roles."""

from kakuremichi.dataplane.nftables.marks import ROLE_MASK
from kakuremichi.dataplane.nftables.skeleton import Chain

# A flow whose service is gone ends with its next packet, also before its entry is flushed.
KNOWN = Chain("known", ("ct mark @used accept", "counter drop"))
COUNT_NEW = "ct mark @opened ct mark @used accept"

_PORT_KEY = "meta nfproto . meta l4proto . th dport"


def ours(role_mark: int) -> str:
    """The match of flows that carry this role's mark."""
    return f"ct mark & 0x{ROLE_MASK:08x} == 0x{role_mark:08x}"


def find_number(role_mark: int, otherwise: str = "accept") -> tuple[str, ...]:
    """Mark a new flow with the number of its port, exact ones first; what has none goes on unmarked, `otherwise`."""
    # Another program may have marked the flow already, so "no service" is not "mark 0".
    not_ours = f"ct mark & 0x{ROLE_MASK:08x} != 0x{role_mark:08x}"
    return (
        f"ct mark set {_PORT_KEY} map @ports",
        f"{not_ours} ct mark set {_PORT_KEY} map @ranges",
        f"{not_ours} {otherwise}",
    )


def to_targets(prefix: str = "") -> tuple[str, ...]:
    """Translate marked flows; `prefix` is a match put before each rule."""
    return tuple(
        rule
        for family, digit in (("ip", "4"), ("ip6", "6"))
        for rule in (
            # nft takes a map with address and port only behind a match of the protocols that have ports.
            f"{prefix}meta l4proto {{ tcp, udp }} dnat {family} to ct mark map @to{digit}",
            f"{prefix}dnat {family} to ct mark map @range{digit}",
        )
    )


def clamp(wg: str) -> Chain:
    """`rt mtu` is the smaller one of both directions, so it is the tunnel's either way."""
    # The flags come first: few packets have them.
    return Chain(
        "clamp",
        tuple(
            f"tcp flags & (syn | rst) == syn {way} {wg} tcp option maxseg size set rt mtu"
            for way in ("oifname", "iifname")
        ),
        "filter hook forward priority mangle",
    )
