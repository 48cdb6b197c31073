"""What an agent's targets live by, as other programs' firewalls see it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from kakuremichi.dataplane.foreign.findings import Flow
from kakuremichi.dataplane.foreign.host import Host
from kakuremichi.dataplane.foreign.mending import Marked
from kakuremichi.dataplane.foreign.packet import Packet
from kakuremichi.dataplane.nftables.marks import AGENT_MARK, ROLE_MASK, Proto, mark_of, target_number
from kakuremichi.model.addresses import IPAddress
from kakuremichi.reconcile.holding import Key
from kakuremichi_agent.model import AgentModel, TargetFacts

_MARKED = Marked(AGENT_MARK, ROLE_MASK)
_ANY_PORT = 20000


@dataclass
class AgentTraffic:
    model: AgentModel
    interface: str

    def general(self, host: Host) -> tuple[Flow, ...]:
        """Targets on this host and behind it, by both protocols."""
        return tuple(
            self._flow(host, proto, None, None, _ANY_PORT, local=local)
            for proto in ("tcp", "udp")
            for local in (False, True)
        )

    def own(self, _host: Host) -> tuple[Flow, ...]:
        """An agent calls its gateways; nobody calls it."""
        return ()

    def services(self) -> Mapping[Key, object]:
        return {("target", name): facts for name, facts in self.model.targets.items()}

    def flows(self, facts: object, host: Host) -> tuple[Flow, ...]:
        if not isinstance(facts, TargetFacts):
            raise TypeError(f"{facts!r}: the facts of a target are needed")
        proto: Proto = "udp" if facts.proto == "udp" else "tcp"
        local = host.is_local(facts.address)
        return (self._flow(host, proto, facts.address, facts.port, facts.first_port, local=local),)

    def _flow(
        self, host: Host, proto: Proto, address: IPAddress | None, port: int | None, agent_port: int, *, local: bool
    ) -> Flow:
        """From each gateway's address in the tunnel, translated already; what is local sends no reply through here."""
        version = address.version if address is not None else 4
        tunnel, mark = host.named(self.interface), mark_of(target_number(proto, agent_port))
        out = None if local or address is None else host.way_to(address)
        known = [address for gateway in self.model.gateways.values() for address in gateway.addresses]
        sources = [each for each in known if each.version == version]
        ways = []
        for source in sources or (None,):
            there = Packet(
                "input" if local else "forward", version, proto, port, iif=tunnel, oif=out, saddr=source,
                daddr=address, mark=mark, translated=True,
            )  # fmt: skip
            back = Packet(
                "forward", version, proto, None, iif=out, oif=tunnel, saddr=address, daddr=source, mark=mark,
                translated=True, reply=True, sport=port,
            )  # fmt: skip
            ways.append((there,) if local else (there, back))
        return Flow(_MARKED, tuple(ways))
