"""The rules of an agent's table."""

from ipaddress import IPv4Address, IPv6Address

from kakuremichi.dataplane.nftables.elements import SHARED_CONTAINERS
from kakuremichi.dataplane.nftables.marks import AGENT_MARK
from kakuremichi.dataplane.nftables.shared_rules import COUNT_NEW, KNOWN, clamp, find_number, ours, to_targets
from kakuremichi.dataplane.nftables.skeleton import Chain, Container, Skeleton, check_interface

CONTAINERS = (
    *SHARED_CONTAINERS,
    Container("gateways4", ("ipv4_addr",)),
    Container("gateways6", ("ipv6_addr",)),
    Container("own", ("inet_proto", "inet_service")),
)

OURS = ours(AGENT_MARK)


def agent_skeleton(interface: str, address: IPv4Address, address6: IPv6Address | None = None) -> Skeleton:
    """`interface` is the tunnel's, `address` and `address6` are the agent's in it."""
    wg = f'"{check_interface(interface)}"'
    here = [f"ip daddr {address}", *([f"ip6 daddr {address6}"] if address6 is not None else [])]
    return Skeleton(
        CONTAINERS,
        (
            *_spoofs(wg),
            *_admission(wg, here),
            _translate(wg),
            _source(),
            *_host_guard(wg, here),
            *_site_guard(wg),
            clamp(wg),
        ),
    )


def _spoofs(wg: str) -> tuple[Chain, ...]:
    """Before conntrack: what no gateway of ours would send.

    `route_localnet` on the tunnel lets a packet to 127.0.0.1 in; only our own translation may make one. One to ::1 is
    dropped by the kernel before any rule, whatever routes there are.
    """
    return (
        Chain(
            "spoofs",
            (
                "ip daddr 127.0.0.0/8 counter drop",
                "ip saddr != @gateways4 counter drop",
                "ip6 saddr != @gateways6 counter drop",
            ),
        ),
        Chain("arrivals", (f"iifname {wg} goto spoofs",), "filter hook prerouting priority raw"),
    )


def _admission(wg: str, here: list[str]) -> tuple[Chain, ...]:
    """The first packet of a flow finds its target; from then on the flow's mark tells."""
    return (
        Chain("choose", (*find_number(AGENT_MARK), COUNT_NEW)),
        KNOWN,
        Chain(
            "classify",
            (
                f"{OURS} goto known",
                *(f"iifname {wg} ct state new meta l4proto {{ tcp, udp }} {match} goto choose" for match in here),
            ),
            "filter hook prerouting priority mangle",
        ),
    )


def _translate(wg: str) -> Chain:
    """One step before the usual priority, so that a container published on the same port does not take the flow."""
    return Chain(
        "translate",
        to_targets(f"iifname {wg} "),
        "nat hook prerouting priority dstnat - 1",
    )


def _source() -> Chain:
    """Another machine of the site may have another default route: it must answer us, not its own router.

    Targets on this host never come here: input has no postrouting.
    """
    return Chain(
        "source",
        (f"{OURS} ct status dnat masquerade",),
        "nat hook postrouting priority srcnat - 1",
    )


def _host_guard(wg: str, here: list[str]) -> tuple[Chain, ...]:
    """From the tunnel to this host: translated flows, the agent's own ports, echo, answers. Nothing else."""
    return (
        Chain(
            "from_tunnel",
            (
                f"{OURS} ct status dnat accept",
                "ct state established ct direction reply accept",
                "ct state related accept",
                *(f"{match} meta l4proto . th dport @own accept" for match in here),
                f"icmp type echo-request {here[0]} accept",
                *(f"icmpv6 type echo-request {match} accept" for match in here[1:]),
                "counter drop",
            ),
        ),
        Chain("host_guard", (f"iifname {wg} goto from_tunnel",), "filter hook input priority filter"),
    )


def _site_guard(wg: str) -> tuple[Chain, ...]:
    """Between tunnel and site: translated flows and their answers. The site opens nothing into the tunnel.

    Every packet of every flow comes here, and to compare the name of an interface is the dearest of these matches.
    """
    return (
        Chain("to_site", (f"oifname {wg} counter drop", f"{OURS} ct status dnat accept", "counter drop")),
        Chain(
            "from_site",
            (
                f"{OURS} ct state established ct direction reply accept",
                f"{OURS} ct state related accept",
                "counter drop",
            ),
        ),
        Chain(
            "site_guard",
            (f"iifname {wg} goto to_site", f"oifname {wg} goto from_site"),
            "filter hook forward priority filter",
        ),
    )
