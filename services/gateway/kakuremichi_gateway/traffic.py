"""What a gateway's services live by, as other programs' firewalls see it. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from kakuremichi.dataplane.foreign.findings import Flow
from kakuremichi.dataplane.foreign.host import Host
from kakuremichi.dataplane.foreign.mending import Marked, ToPort
from kakuremichi.dataplane.foreign.packet import Interface, Packet
from kakuremichi.dataplane.nftables.gateway import TCP_DOOR
from kakuremichi.dataplane.nftables.marks import GATEWAY_MARK, ROLE_MASK, Proto, mark_of
from kakuremichi.model.addresses import IPAddress
from kakuremichi.reconcile.holding import Key
from kakuremichi_gateway.model import GatewayModel, RouteFacts
from kakuremichi_gateway.publishing import carried_families, route_key

# Visitors from anywhere: what a list of known addresses says of one of them it does not say of all. Nothing is sent.
STRANGERS: Mapping[int, tuple[IPAddress, ...]] = {
    4: tuple(ip_address(text) for text in ("198.51.100.7", "45.10.20.30", "151.40.50.60")),
    6: tuple(ip_address(text) for text in ("2001:db8::7", "2a00:1::7", "2600:1::7")),
}
_MOST_SOURCES = 8
_ANY_NUMBER = 1  # of a service: firewalls of others look at the whole mark or at none of it
_MARKED = Marked(GATEWAY_MARK, ROLE_MASK)


@dataclass
class GatewayTraffic:
    """`doors` are the TCP ports of HTTP services; `tunnel` is WireGuard's port; `versions` those of its endpoints."""

    model: GatewayModel
    interface: str
    doors: tuple[int, ...]
    tunnel: int
    versions: tuple[int, ...] = (4,)

    def general(self, host: Host) -> tuple[Flow, ...]:
        forwarded = (self._forwarded(host, proto, None, None, STRANGERS[4]) for proto in ("tcp", "udp"))
        carried = (_carried(host, version, STRANGERS[version]) for version in _versions(host))
        return (*forwarded, *carried, *self._doors(host))

    def own(self, host: Host) -> tuple[Flow, ...]:
        return tuple(_to_port(host, "udp", self.tunnel, version, STRANGERS[version]) for version in self.versions)

    def services(self) -> Mapping[Key, object]:
        return {route_key(service): facts for service, facts in self.model.routes.items() if facts.targets}

    def flows(self, facts: object, host: Host) -> tuple[Flow, ...]:
        if not isinstance(facts, RouteFacts):
            raise TypeError(f"{facts!r}: the facts of a route are needed")
        if facts.kind not in ("tcp", "udp"):
            return (*self._doors(host), *self.own(host))
        return (*self._l4(facts, host), *self.own(host))

    def _l4(self, facts: RouteFacts, host: Host) -> Iterable[Flow]:
        """Through nftables alone, but for what HAProxy carries."""
        proto: Proto = "udp" if facts.kind == "udp" else "tcp"
        carried = carried_families(facts)
        for version in _versions(host):
            visitors = [net.network_address for net in facts.sources if net.version == version][:_MOST_SOURCES]
            if facts.sources and not visitors:
                continue
            if version in carried:
                yield _carried(host, version, visitors or STRANGERS[version])
                continue
            for _, address, port, *_ in facts.targets:
                if address.version == version:
                    yield self._forwarded(host, proto, address, port, visitors or STRANGERS[version])

    def _doors(self, host: Host) -> tuple[Flow, ...]:
        return tuple(
            _to_port(host, "tcp", port, version, STRANGERS[version])
            for version in _versions(host)
            for port in self.doors
        )

    def _forwarded(
        self, host: Host, proto: Proto, agent: IPAddress | None, port: int | None, visitors: Iterable[IPAddress]
    ) -> Flow:
        """Translated already: that happens before any chain of the forward hook."""
        tunnel, mark, version = host.named(self.interface), mark_of(_ANY_NUMBER), agent.version if agent else 4
        ways = []
        for visitor in visitors:
            for uplink in _uplinks(host, version):
                there = Packet(
                    "forward", version, proto, port, iif=uplink, oif=tunnel, saddr=visitor, daddr=agent, mark=mark,
                    translated=True,
                )  # fmt: skip
                back = Packet(
                    "forward", version, proto, None, iif=tunnel, oif=uplink, saddr=agent, daddr=visitor, mark=mark,
                    translated=True, reply=True, sport=port,
                )  # fmt: skip
                ways.append((there, back))
        return Flow(_MARKED, tuple(ways))


def _carried(host: Host, version: int, visitors: Iterable[IPAddress]) -> Flow:
    """Redirected to HAProxy before any chain of the input hook; the flow keeps its mark."""
    ways = (
        (
            Packet(
                "input", version, "tcp", TCP_DOOR, iif=uplink, saddr=visitor, mark=mark_of(_ANY_NUMBER),
                translated=True,
            ),
        )
        for visitor in visitors
        for uplink in _uplinks(host, version)
    )  # fmt: skip
    return Flow(_MARKED, tuple(ways))


def _to_port(host: Host, proto: Proto, port: int, version: int, visitors: Iterable[IPAddress]) -> Flow:
    ways = (
        (Packet("input", version, proto, port, iif=uplink, saddr=visitor),)
        for visitor in visitors
        for uplink in _uplinks(host, version)
    )
    return Flow(ToPort(proto, port), tuple(ways))


def _versions(host: Host) -> tuple[int, ...]:
    """The families that visitors can come by."""
    return (4, 6) if host.uplinks(6) else (4,)


def _uplinks(host: Host, version: int) -> tuple[Interface | None, ...]:
    return host.uplinks(version) or (None,)
