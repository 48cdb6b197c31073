"""The rules of a gateway's table."""

from kakuremichi.dataplane.nftables.elements import SHARED_CONTAINERS
from kakuremichi.dataplane.nftables.marks import GATEWAY_MARK
from kakuremichi.dataplane.nftables.shared_rules import COUNT_NEW, KNOWN, clamp, find_number, ours, to_targets
from kakuremichi.dataplane.nftables.skeleton import Chain, Container, Skeleton, check_interface
from kakuremichi.model.addresses import SLOTS

CONTAINERS = (
    *SHARED_CONTAINERS,
    Container("open", ("mark",)),
    Container("allow4", ("mark", "ipv4_addr"), interval=True),
    Container("allow6", ("mark", "ipv6_addr"), interval=True),
    Container("doors", ("inet_service",), ("inet_service",)),
    Container("guarded", ("inet_proto", "inet_service")),
)

OURS = ours(GATEWAY_MARK)


def gateway_skeleton(interface: str, slot: int) -> Skeleton:
    """`interface` is the tunnel's; `slot` (1 to 99) is the host part of our address in every agent's subnet."""
    if slot not in SLOTS:
        raise ValueError(f"slot {slot}: gateways have 1 to 99")
    wg = f'"{check_interface(interface)}"'
    return Skeleton(
        CONTAINERS,
        (*_admission(wg), _translate(wg, slot), _source(wg, slot), *_host_guard(wg), _tunnel_guard(wg), clamp(wg)),
    )


def _admission(wg: str) -> tuple[Chain, ...]:
    """The first packet of a flow finds its service; from then on the flow's mark tells."""
    return (
        Chain("admitted", (COUNT_NEW,)),
        Chain(
            "choose",
            (
                *find_number(GATEWAY_MARK),
                # Before the interval sets: services open to all are the common case, and these look-ups cost.
                "ct mark @open goto admitted",
                "ct mark . ip saddr @allow4 goto admitted",
                "ct mark . ip6 saddr @allow6 goto admitted",
                "counter drop",
            ),
        ),
        KNOWN,
        Chain(
            "classify",
            (
                f"{OURS} goto known",
                # Not `lo`: what listens on this host under the same port stays reachable for the host itself.
                f"iifname != {{ lo, {wg} }} ct state new meta l4proto {{ tcp, udp }} fib daddr type local goto choose",
            ),
            "filter hook prerouting priority mangle",
        ),
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
            "fib daddr type local meta l4proto tcp redirect to :tcp dport map @doors",
        ),
        "nat hook prerouting priority dstnat - 1",
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
            f"oifname {wg} snat ip6 to ip6 daddr & ffff:ffff:ffff:ffff:: | ::{slot:x}",
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


def _tunnel_guard(wg: str) -> Chain:
    """Into the tunnel only what we have translated, out of it only the answers, never from agent to agent."""
    return Chain(
        "tunnel_guard",
        (
            f"iifname {wg} oifname {wg} counter drop",
            f"iifname {wg} {OURS} ct state established ct direction reply accept",
            f"iifname {wg} {OURS} ct state related accept",
            f"iifname {wg} counter drop",
            f"oifname {wg} {OURS} ct status dnat accept",
            f"oifname {wg} counter drop",
        ),
        "filter hook forward priority filter",
    )
