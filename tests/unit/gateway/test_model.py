"""A gateway takes into its desired state what signatures and certificates allow, and nothing else."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network

import msgspec
import pytest
from msgspec import Raw
from nacl.signing import SigningKey

from kakuremichi.model.ids import NodeId, ServiceId
from kakuremichi.model.options import Options, Upstream
from kakuremichi.wire.codec import encode
from kakuremichi.wire.records import AgentPeer, Revocation, RouteWithOptions
from kakuremichi_gateway.model import GatewayModel
from kakuremichi_gateway.publishing import carried_families
from support.feedmaker import verifier
from support.people import MAIN, Person, http_route, tcp_route

SITE_A = Person("site-a", subnet="10.1.0.0/24")
SITE_B = Person("site-b", subnet="10.2.0.0/24")


@pytest.fixture
def model() -> GatewayModel:
    return GatewayModel(verifier(), MAIN)


def peer_key(person: Person) -> tuple[str, str]:
    return ("agent-peer", person.name)


class TestAgents:
    def test_an_agent_whose_chain_fits_is_taken_with_the_address_of_its_certificate(self, model: GatewayModel) -> None:
        dirty = model.take([(peer_key(SITE_A), SITE_A.agent_peer())])

        assert not dirty.errors
        facts = model.agents[SITE_A.node_id]
        assert facts.address == IPv4Address("10.1.0.100")
        assert facts.public_key == SITE_A.public_key

    @pytest.mark.parametrize("forgery", ["certificate", "announcement", "other-node", "other-pool", "other-role"])
    def test_a_forged_one_changes_nothing_and_is_named(self, model: GatewayModel, forgery: str) -> None:
        stranger = SigningKey(b"x" * 32)
        good = SITE_A.agent_peer()
        records = {
            "certificate": AgentPeer(
                node_id=SITE_A.node_id, certificate=SITE_A.certificate(stranger), announcement=good.announcement
            ),
            "announcement": AgentPeer(
                node_id=SITE_A.node_id,
                certificate=good.certificate,
                announcement=SITE_A.announcement(9, signer=stranger),
            ),
            "other-node": AgentPeer(
                node_id=SITE_A.node_id, certificate=SITE_B.certificate(), announcement=SITE_B.announcement()
            ),
            "other-pool": Person("site-a", subnet="10.1.0.0/24", pool="blue").agent_peer(),
            "other-role": Person("site-a", role="gateway", slot=1).agent_peer(),
        }

        dirty = model.take([(peer_key(SITE_A), records[forgery])])

        assert set(dirty.errors) == {peer_key(SITE_A)}
        assert not model.agents

    def test_a_key_of_an_older_epoch_does_not_replace_a_newer_one(self, model: GatewayModel) -> None:
        model.take([(peer_key(SITE_A), SITE_A.agent_peer(epoch=5))])

        dirty = model.take([(peer_key(SITE_A), SITE_A.agent_peer(epoch=4, key=SITE_B.public_key))])

        assert "epoch 4 does not follow 5" in dirty.errors[peer_key(SITE_A)]
        assert model.agents[SITE_A.node_id].public_key == SITE_A.public_key

    def test_a_key_or_subnet_that_another_agent_holds_stays_with_its_holder(self, model: GatewayModel) -> None:
        model.take([(peer_key(SITE_A), SITE_A.agent_peer())])
        thief = Person("site-c", subnet="10.1.0.0/24")
        twin = Person("site-d", subnet="10.4.0.0/24")

        dirty = model.take(
            [(peer_key(thief), thief.agent_peer()), (peer_key(twin), twin.agent_peer(key=SITE_A.public_key))]
        )

        assert "10.1.0.0/24 is that of site-a" in dirty.errors[peer_key(thief)]
        assert "its key is that of site-a" in dirty.errors[peer_key(twin)]
        assert set(model.agents) == {SITE_A.node_id}

    def test_a_revoked_agent_is_gone_and_stays_gone_until_a_newer_epoch(self, model: GatewayModel) -> None:
        model.take([(peer_key(SITE_A), SITE_A.agent_peer(epoch=5))])

        model.take([(("revocation", "site-a"), Revocation(node_id=NodeId("site-a"), epoch=5))])
        again = model.take([(peer_key(SITE_A), SITE_A.agent_peer(epoch=5))])

        assert SITE_A.node_id not in model.agents
        assert "revoked" in again.errors[peer_key(SITE_A)]
        model.take([(peer_key(SITE_A), SITE_A.agent_peer(epoch=6))])
        assert SITE_A.node_id in model.agents


class TestRoutes:
    def test_a_route_that_comes_before_its_agent_is_served_once_the_agent_is_there(self, model: GatewayModel) -> None:
        wiki = ServiceId("wiki")
        first = model.take([(("route", "wiki"), http_route("wiki", "site-a"))])
        assert "site-a has announced no key" in first.errors["route", "wiki"]
        assert model.routes[wiki].targets == ()

        second = model.take([(peer_key(SITE_A), SITE_A.agent_peer())])

        assert second.services == {wiki}
        assert not second.errors
        assert model.routes[wiki].targets == (("wiki-0", IPv4Address("10.1.0.100"), 20000, 100),)

    def test_a_host_or_port_outside_the_certificate_is_never_routed(self, model: GatewayModel) -> None:
        narrow = Person("site-a", subnet="10.1.0.0/24", hosts=("wiki.lab.test",), ports=("6000-6010",))
        model.take([(peer_key(narrow), narrow.agent_peer())])

        dirty = model.take(
            [
                (("route", "wiki"), http_route("wiki", "site-a")),
                (("route", "bank"), http_route("bank", "site-a")),
                (("route", "ok"), tcp_route("ok", "site-a", 6010)),
                (("route", "no"), tcp_route("no", "site-a", 6011)),
            ]
        )

        assert set(dirty.errors) == {("route", "bank"), ("route", "no")}
        assert {name for name, facts in model.routes.items() if facts.targets} == {"wiki", "ok"}

    def test_sources_on_an_http_route_are_refused_rather_than_ignored(self, model: GatewayModel) -> None:
        model.take([(peer_key(SITE_A), SITE_A.agent_peer())])
        route = http_route("wiki", "site-a")
        limited = type(route)(**{**{f: getattr(route, f) for f in route.__struct_fields__}, "sources": ("10.0.0.0/8",)})

        dirty = model.take([(("route", "wiki"), limited)])

        assert "more than its version" in dirty.errors["route", "wiki"]
        assert not model.routes

    def test_a_service_that_is_gone_leaves_nothing(self, model: GatewayModel) -> None:
        model.take([(peer_key(SITE_A), SITE_A.agent_peer()), (("route", "wiki"), http_route("wiki", "site-a"))])

        dirty = model.take([(("route", "wiki"), None)])

        assert dirty.services == {ServiceId("wiki")}
        assert not model.routes
        assert not model.take([(peer_key(SITE_A), SITE_A.agent_peer())]).services


class TestCuts:
    def test_a_revocation_counts_before_all_that_comes_with_it(self, model: GatewayModel) -> None:
        """A pass may hold several changes; in the order of their keys the peer itself would come first."""
        model.take([(peer_key(SITE_A), SITE_A.agent_peer())])

        dirty = model.take(
            [
                (peer_key(SITE_A), SITE_A.agent_peer()),
                (("revocation", "site-a"), Revocation(node_id=NodeId("site-a"), epoch=1)),
            ]
        )

        assert dirty.cut == {SITE_A.node_id: (IPv4Address("10.1.0.100"),)}
        assert not model.agents
        assert "revoked" in dirty.errors[peer_key(SITE_A)]

    def test_who_is_gone_is_cut_too_and_who_has_a_new_key_is_not(self, model: GatewayModel) -> None:
        model.take([(peer_key(SITE_A), SITE_A.agent_peer()), (peer_key(SITE_B), SITE_B.agent_peer())])

        dirty = model.take([(peer_key(SITE_A), None), (peer_key(SITE_B), SITE_B.agent_peer(2))])

        assert set(dirty.cut) == {SITE_A.node_id}
        assert dirty.agents == {SITE_A.node_id, SITE_B.node_id}


class TestIPv6:
    TUNNEL6 = IPv6Network("fd00:1::/96")

    def route(self) -> RouteWithOptions:
        plain = tcp_route("six", "site-a", 7000)
        options = Raw(encode(Options(upstream=Upstream(ipv6=True))))
        return RouteWithOptions(**msgspec.structs.asdict(plain), options=options)

    def test_a_route_to_ipv6_leads_to_the_address_beside_the_agents_own(self, model: GatewayModel) -> None:
        model.tunnel6 = self.TUNNEL6
        dirty = model.take([(peer_key(SITE_A), SITE_A.agent_peer()), (("route", "six"), self.route())])

        assert not dirty.errors
        facts = model.routes[ServiceId("six")]
        assert facts.targets == (("six-0", IPv6Address("fd00:1::10.1.0.100"), 20000, 100),)
        assert carried_families(facts) == {4}
        gone = model.take([(peer_key(SITE_A), None)])
        assert gone.cut == {SITE_A.node_id: (IPv4Address("10.1.0.100"), IPv6Address("fd00:1::10.1.0.100"))}

    def test_a_host_without_ipv6_refuses_it_with_a_sentence_and_serves_the_others(self, model: GatewayModel) -> None:
        dirty = model.take(
            [
                (peer_key(SITE_A), SITE_A.agent_peer()),
                (("route", "six"), self.route()),
                (("route", "wiki"), http_route("wiki", "site-a")),
            ]
        )

        assert dirty.errors == {("route", "six"): "route six: its target has IPv6, this gateway's host has none"}
        assert set(model.routes) == {"wiki"}
