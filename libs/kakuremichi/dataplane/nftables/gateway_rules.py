"""The rules of a gateway's table."""

from kakuremichi.dataplane.nftables import limits
from kakuremichi.dataplane.nftables.elements import SHARED_CONTAINERS
from kakuremichi.dataplane.nftables.guards import GUARD_CONTAINERS, GUARDS, Guards, guard_chain, listener_chains
from kakuremichi.dataplane.nftables.marks import GATEWAY_MARK
from kakuremichi.dataplane.nftables.shared_rules import COUNT_NEW, KNOWN, clamp, find_number, ours, to_targets
from kakuremichi.dataplane.nftables.skeleton import Chain, Container, Skeleton, check_interface
from kakuremichi.model.addresses import SLOTS

CONTAINERS = (
    *SHARED_CONTAINERS,
    Container("open", ("mark",)),
    Container("returned", ("mark",), counter=True),  # of what `used` counts, the packets and bytes to visitors
    Container("allow4", ("mark", "ipv4_addr"), interval=True),
    Container("allow6", ("mark", "ipv6_addr"), interval=True),
    Container("carried4", ("mark",), ("inet_service",)),  # the local port of the program that carries this service
    Container("carried6", ("mark",), ("inet_service",)),
    Container("doors", ("inet_service",), ("inet_service",)),
    Container("listeners", ("inet_proto", "inet_service")),  # public ports that a program of this host serves
    Container("guarded", ("inet_proto", "inet_service")),
    *limits.CONTAINERS,
    *GUARD_CONTAINERS,
)

OURS = ours(GATEWAY_MARK)
_SUBNET6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00"  # the /120 beside an agent's /24


def gateway_skeleton(interface: str, slot: int, guards: Guards = GUARDS) -> Skeleton:
    """`interface` is the tunnel's; `slot` (1 to 99) is the host part of our address in every agent's subnet."""
    if slot not in SLOTS:
        raise ValueError(f"slot {slot}: gateways have 1 to 99")
    wg = f'"{check_interface(interface)}"'
    return Skeleton(
        CONTAINERS,
        (
            *_limits(),
            *_admission(wg, guards),
            _hand_over(),
            _translate(wg, slot),
            _source(wg, slot),
            *_host_guard(wg),
            *_tunnel_guard(wg),
            clamp(wg),
        ),
        limits.templates(),
    )


def _limits() -> tuple[Chain, ...]:
    """What a new flow must get through if its service has limits; each visitor's own share comes first.

    Who opens too many at once is told by a reset; who comes too fast is dropped, as his next attempt may succeed.
    """
    return (
        Chain("too_fast", ("ct mark @refused drop", "drop")),
        Chain("too_many", ("meta l4proto tcp ct mark @refused reject with tcp reset", "goto too_fast")),
        Chain(
            "limits",
            (
                *(f"ct mark vmap @{name}" for name in limits.POLICIES),
                "ct mark @rate goto too_fast",
                "ct mark @conns goto too_many",
            ),
        ),
    )


def _admission(wg: str, guards: Guards) -> tuple[Chain, ...]:
    """The first packet of a flow finds its service; from then on the flow's mark tells."""
    return (
        guard_chain(guards),
        *listener_chains(wg, guards),
        Chain("admitted", ("jump guard", "ct mark @limited jump limits", COUNT_NEW)),
        Chain(
            "choose",
            (
                *find_number(GATEWAY_MARK, "goto listener"),
                # Before the interval sets: services open to all are the common case, and these look-ups cost.
                "ct mark @open goto admitted",
                "ct mark . ip saddr @allow4 goto admitted",
                "ct mark . ip6 saddr @allow6 goto admitted",
                "counter drop",
            ),
        ),
        # A policer: TCP slows down when packets are missing, UDP loses them.
        Chain(
            "known",
            ("ct direction reply ct mark @bandwidth drop", "ct direction reply ct mark @returned", *KNOWN.rules),
        ),
        Chain(
            "classify",
            (
                f"{OURS} goto known",
                # The gateway's own flows to a target bear no mark: HAProxy keeps them open for many visitors.
                f"iifname {wg} ip saddr . tcp sport @shaped drop",
                f"meta nfproto ipv6 iifname {wg} ip6 saddr . tcp sport @shaped6 drop",
                # Not `lo`: what listens on this host under the same port stays reachable for the host itself.
                f"iifname != {{ lo, {wg} }} ct state new meta l4proto {{ tcp, udp }} fib daddr type local goto choose",
            ),
            "filter hook prerouting priority mangle",
        ),
        # What HAProxy answers to the visitors of a carried service, so that both directions are counted and limited.
        Chain("answers", (f"{OURS} ct direction reply goto known",), "filter hook output priority mangle"),
    )


def _translate(wg: str, slot: int) -> Chain:
    """Only what `choose` has marked, or a door; never a packet from the tunnel.

    One step before the usual priority, so that a container published on the same port does not take the flow.
    """
    return Chain(
        "translate",
        (
            # The gateway has no address of its own in the agents' subnets, yet answers an agent's ping there.
            # It needs some IPv4 address on the interface for that: redirect drops without one.
            f"iifname {wg} icmp type echo-request ip daddr & 0.0.0.255 == 0.0.0.{slot} redirect",
            f"iifname {wg} accept",
            *to_targets(),
            "meta nfproto ipv4 meta l4proto tcp redirect to :ct mark map @carried4",
            "fib daddr type local meta l4proto tcp redirect to :tcp dport map @doors",
        ),
        "nat hook prerouting priority dstnat - 1",
    )


def _hand_over() -> Chain:
    """Visitors by IPv6 of services that HAProxy carries.

    The kernel tells a program what a `redirect` has changed for IPv4 only. So here nothing is changed: the connection
    is given to HAProxy's transparent socket, which reads from it the port that was asked for.
    """
    return Chain(
        "hand_over",
        (f"{OURS} meta nfproto ipv6 meta l4proto tcp tproxy ip6 to :ct mark map @carried6",),
        "filter hook prerouting priority mangle + 1",
    )


def _source(wg: str, slot: int) -> Chain:
    """Our address in the agent's own subnet, computed: no address per agent on the gateway.

    For forwarded flows and HAProxy's own. nft 1.0.6 lists the mask wrongly (`& 255.255.255.<slot>`); the kernel has
    it right. One step before the usual priority, because the first source rule that matches a flow wins.
    """
    return Chain(
        "source",
        (
            f"oifname {wg} snat ip to ip daddr & 255.255.255.0 | 0.0.0.{slot}",
            f"oifname {wg} snat ip6 to ip6 daddr & {_SUBNET6} | ::{slot:x}",
        ),
        "nat hook postrouting priority srcnat - 1",
    )


def _host_guard(wg: str) -> tuple[Chain, ...]:
    """Agents reach nothing of this host but its ICMP echo."""
    return (
        Chain(
            "from_tunnel",
            (
                "ct state established ct direction reply accept",
                "ct state related accept",
                "icmp type echo-request accept",
                "icmpv6 type echo-request accept",
                "counter drop",
            ),
        ),
        Chain(
            "host_guard",
            (
                f"iifname {wg} goto from_tunnel",
                'iifname != "lo" meta l4proto . th dport @guarded ct status & dnat != dnat counter drop',
            ),
            "filter hook input priority filter",
        ),
    )


def _tunnel_guard(wg: str) -> tuple[Chain, ...]:
    """Into the tunnel only what we have translated, out of it only the answers, never from agent to agent.

    Every packet of every flow comes here, and to compare the name of an interface is the dearest of these matches.
    """
    return (
        Chain(
            "out_of_tunnel",
            (
                f"oifname {wg} counter drop",
                f"{OURS} ct state established ct direction reply accept",
                f"{OURS} ct state related accept",
                "counter drop",
            ),
        ),
        Chain("into_tunnel", (f"{OURS} ct status dnat accept", "counter drop")),
        Chain(
            "tunnel_guard",
            (f"iifname {wg} goto out_of_tunnel", f"oifname {wg} goto into_tunnel"),
            "filter hook forward priority filter",
        ),
    )
