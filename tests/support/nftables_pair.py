"""A gateway's and an agent's table in the namespaces of `Net`, with one target of each protocol on the loopback."""

from dataclasses import replace
from ipaddress import ip_address

from kakuremichi.dataplane.nftables.agent import AgentTable, Target, agent_desired
from kakuremichi.dataplane.nftables.elements import Ports
from kakuremichi.dataplane.nftables.gateway import TCP_DOOR, GatewayTable, L4Service, gateway_desired
from kakuremichi.dataplane.nftables.marks import Proto
from kakuremichi.dataplane.nftables.reconcile import Reconciler
from support.nftables_net import AGENT, SLOT_ADDRESS, Net

LOOPBACK: dict[tuple[Proto, Ports], Target] = {
    ("tcp", Ports.of(20001)): Target(ip_address("127.0.0.1"), 5432),
    ("udp", Ports.of(20001)): Target(ip_address("127.0.0.1"), 53),
}
TCP = L4Service(number=1, proto="tcp", ports=Ports.of(5432), agent_port=20001, target=AGENT, carried=frozenset({6}))
UDP = L4Service(number=2, proto="udp", ports=Ports.of(53), agent_port=20001, target=AGENT)


def table_of(*services: L4Service) -> GatewayTable:
    return GatewayTable(
        "wg", 7, guarded=frozenset({("tcp", TCP_DOOR)}), services={each.number: each for each in services}
    )


async def apply(net: Net, *services: L4Service, **more: object) -> Reconciler:
    """The reconciler of the gateway's table; `more` are fields of its desired state."""
    agent = AgentTable("wg", AGENT, frozenset({ip_address(SLOT_ADDRESS)}), targets=LOOPBACK)
    reconciler = Reconciler(net.nft("gw"))
    reports = (
        await Reconciler(net.nft("agent")).full(agent_desired(agent)),
        await reconciler.full(gateway_desired(replace(table_of(*services), **more))),  # type: ignore[arg-type]
    )
    assert [report.refused for report in reports] == [(), ()]
    return reconciler
