"""In which order an agent makes true what it is told."""

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, ip_network

import pytest

from kakuremichi.dataplane.links.desired import LinkState
from kakuremichi.dataplane.links.memory import MemoryLink
from kakuremichi.dataplane.nftables.memory import MemoryTable
from kakuremichi.dataplane.nftables.reconcile import Reconciler
from kakuremichi.dataplane.wireguard.desired import Peer
from kakuremichi.dataplane.wireguard.memory import MemoryDevice
from kakuremichi.dataplane.wireguard.reconcile import PeerReconciler
from kakuremichi.model.addresses import host_network
from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import PrivateKey
from kakuremichi.node.direct import DirectRecords
from kakuremichi.node.peering import PeerSection, RouteSection
from kakuremichi.reconcile.holding import Held, Holding, Key
from kakuremichi.wire.records import AnyRecord
from kakuremichi_agent import sections
from kakuremichi_agent.allow import default_allow
from kakuremichi_agent.model import AgentModel
from kakuremichi_agent.sections import Agent, TargetSection
from support.feedmaker import verifier
from support.people import MAIN, Person, target_record

TUNNEL = ip_network("10.9.0.0/24")
GW1, GW2 = (Person(f"gw{slot}", role="gateway", slot=slot, endpoint=f"203.0.113.{slot}:51820") for slot in (1, 2))


async def no_flows(_which: object) -> None:
    """The fakes have no flows to end."""


class Rig:
    """An agent on fakes."""

    def __init__(self) -> None:
        self.model = AgentModel(verifier(), MAIN, TUNNEL, default_allow([], TUNNEL))  # type: ignore[arg-type]
        self.device, self.holding = MemoryDevice(), Holding("feed.fleet.main")
        peers = PeerSection("gateway-peer", PeerReconciler(self.device), self._peer_of)
        routes = RouteSection(
            "gateway-peer", MemoryLink("kk0", LinkState("ours")), lambda _node: None, lambda: LinkState("ours")
        )
        targets = TargetSection(
            self.model, Reconciler(MemoryTable()), "kk0", IPv4Address("10.9.0.100"), None, no_flows, no_flows
        )
        self.agent = Agent(self.model, (self.holding,), peers, routes, targets, DirectRecords())

    async def start(self) -> "Rig":
        for _, perform in self.agent.plan_all(frozenset()).steps:
            assert not await perform()
        return self

    def _peer_of(self, gateway: NodeId) -> Peer | None:
        facts = self.model.gateways.get(gateway)
        if facts is None:
            return None
        return Peer(facts.public_key, frozenset(map(host_network, facts.addresses)), facts.endpoint)

    async def tell(self, key: Key, record: AnyRecord | None) -> list[str]:
        """The sections that were gone through for it."""
        self.holding.live.pop(key, None)
        if record is not None:
            self.holding.live[key] = Held(1, bytes(32), GW1.certificate(), record)
        plan = self.agent.plan(frozenset({key}))
        assert not plan.refused
        for _, perform in plan.steps:
            assert not await perform()
        return [name for name, _ in plan.steps]


async def test_a_gateway_moves_to_its_next_key_before_its_agents_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "SETTLE_S", 0.0)
    rig, gw1 = await Rig().start(), replace(GW1)
    assert await rig.tell(("gateway-peer", "gw1"), gw1.gateway_peer()) == ["wireguard", "nftables"]

    gw1.wireguard = PrivateKey.generate()
    gw1.endpoint = "203.0.113.9:51820"
    assert await rig.tell(("gateway-peer", "gw1"), gw1.gateway_peer(epoch=2)) == ["settle", "wireguard", "nftables"]

    assert rig.device.peers.keys() == {gw1.public_key}


async def test_nothing_else_waits_for_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "SETTLE_S", 3600.0)
    rig = await Rig().start()
    await rig.tell(("gateway-peer", "gw1"), GW1.gateway_peer())

    moved = replace(GW1, endpoint="203.0.113.9:51820").gateway_peer(epoch=2)
    async with asyncio.timeout(5):
        assert "settle" not in await rig.tell(("gateway-peer", "gw1"), moved)
        assert "settle" not in await rig.tell(("gateway-peer", "gw2"), GW2.gateway_peer())
        assert await rig.tell(("target", "t"), target_record("t")) == ["nftables"]
        assert (await rig.tell(("gateway-peer", "gw1"), None))[0] == "wireguard cut"

    assert rig.device.peers.keys() == {GW2.public_key}
