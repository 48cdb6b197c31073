"""Services of a gateway's table that together use every kind of its elements."""

from ipaddress import IPv4Address, IPv6Address, ip_network

from kakuremichi.dataplane.nftables.elements import Ports
from kakuremichi.dataplane.nftables.gateway import L4Service
from kakuremichi.model.options import Limits

SERVICES = {
    1: L4Service(number=1, proto="tcp", ports=Ports.of(5432), agent_port=20001, target=IPv4Address("10.1.0.100")),
    2: L4Service(
        number=2,
        proto="udp",
        ports=Ports.of(40000, 45055),
        agent_port=40000,
        target=IPv4Address("10.1.1.100"),
        target6=IPv6Address("fd00:1::100"),
        sources=frozenset(
            map(ip_network, ("0.0.0.0/1", "198.51.100.7/32", "203.0.113.0/24", "2001:db8::/32", "2001:db9::1/128"))
        ),
    ),
    3: L4Service(
        number=3,
        proto="udp",
        ports=Ports.of(53),
        agent_port=20002,
        target6=IPv6Address("fd00:2::100"),
        sources=frozenset(map(ip_network, ("0.0.0.0/0", "::/0"))),
    ),
    4: L4Service(
        number=4,
        proto="tcp",
        ports=Ports.of(7000, 7009),
        agent_port=7000,
        target=IPv4Address("10.1.0.100"),
        sources=frozenset({ip_network("198.51.100.0/24")}),
        limits=Limits(
            rate=100, rate_per_client=7, connections=1048576, connections_per_client=20, bandwidth=3 * 1024 * 1024 + 1
        ),
        carried=frozenset({4, 6}),
    ),
}
