"""Whoever holds registry, keyring, portal, NATS and database still adds no peer, no host name, no port, no target.

The trust keys are offline (two of three). The forger may say whatever he likes over the feeds and the snapshots, in
any order; the nodes' own code hears it. What they would configure is compared with what the owners have signed.
"""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from msgspec.structs import replace as with_fields
from nacl.signing import SigningKey

from kakuremichi.model.ids import NodeId, ServiceId
from kakuremichi.model.keys import PrivateKey
from kakuremichi.reconcile.epochs import Epochs
from kakuremichi.reconcile.verify import NotTrustedError, open_trust_set
from kakuremichi.wire import signing
from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.identity import TrustSet
from kakuremichi.wire.records import AgentPeer, GatewayPeer, Route, RouteTarget, Target
from kakuremichi.wire.requests import SnapshotPage
from kakuremichi.wire.signing import Signed, sign, verify_key
from kakuremichi_agent.allow import read_allow
from kakuremichi_agent.model import AgentModel
from support.forger import (
    ANNOUNCEMENTS,
    CERTIFICATES,
    DEPLOYMENT,
    OWN_KEY,
    POOL,
    SITE_A,
    SITE_A_BEFORE,
    STOLEN_TRUST_KEY,
    TRUST,
    TRUST_KEYS,
    Owner,
)
from support.forgeries import agent_sequences, gateway_sequences
from support.forgery_play import (
    STOPPED,
    TUNNEL,
    Victim,
    agent_model,
    attack,
    check_agent,
    check_gateway,
    gateway_model,
    make_verifier,
)

MANY = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
GATEWAY = (gateway_model, "feed.pool.main", check_gateway)
AGENT = (agent_model, "feed.fleet.main", check_agent)


@pytest.mark.timeout(180)
@MANY
@given(gateway_sequences)
def test_no_gateway_configures_what_its_agents_owners_have_not_signed(sequence: list[Any]) -> None:
    attack(*GATEWAY, sequence)


@pytest.mark.timeout(180)
@MANY
@given(agent_sequences)
def test_no_agent_configures_a_gateway_or_target_that_is_not_signed_or_allowed(sequence: list[Any]) -> None:
    attack(*AGENT, sequence)


def peer_of(owner: Owner, epoch: int, certificate: Signed | None = None, announcement: Signed | None = None) -> bytes:
    kind = AgentPeer if owner.role == "agent" else GatewayPeer
    return encode(
        kind(
            node_id=NodeId(owner.name),
            certificate=certificate or CERTIFICATES[owner],
            announcement=announcement or ANNOUNCEMENTS[owner, epoch],
        )
    )


def widened(key: SigningKey) -> Signed:
    """The certificate of site-a with every host and port, signed by this key alone."""
    body = with_fields(SITE_A.certificate_body(), hosts=("*",), ports=("*",))
    return sign(signing.CERTIFICATE, DEPLOYMENT, encode(body), key)


def route_to(agent: str, host: str = "", first: int = 0, last: int = 0) -> bytes:
    target = RouteTarget(target_id="t-0", agent=NodeId(agent), agent_port=first or 20000)
    return encode(
        Route(
            service_id=ServiceId("wiki"), kind="http" if host else "tcp", host=host, path="", first_port=first,
            last_port=last or first, sources=(), targets=(target,),
        )
    )  # fmt: skip


class TestTheOracle:
    """It would find a breach: with a verifier that is content with one signature, each of these gets through."""

    @pytest.mark.parametrize("attempt", ["key", "host", "port"])
    def test_a_gateway_that_believes_one_trust_key_is_caught(self, attempt: str) -> None:
        body = with_fields(SITE_A.certificate_body(), identity_key=verify_key(OWN_KEY))
        mine = sign(signing.CERTIFICATE, DEPLOYMENT, encode(body), STOLEN_TRUST_KEY)
        lie = with_fields(SITE_A.announcement_body(5), public_key=PrivateKey(b"w" * 32).public())
        said = sign(signing.ANNOUNCEMENT, DEPLOYMENT, encode(lie), OWN_KEY)
        wide = peer_of(SITE_A, 3, widened(STOLEN_TRUST_KEY))
        records = {
            "key": [peer_of(SITE_A, 3, mine, said)],
            "host": [wide, route_to("site-a", "bank.example.com")],
            "port": [wide, route_to("site-a", first=22)],
        }[attempt]
        sequence = [("item", record, "next") for record in records]

        attack(*GATEWAY, sequence)
        with pytest.raises(AssertionError, match=r"nobody has signed|is not for|are not for"):
            attack(*GATEWAY, sequence, threshold=1)

    def test_an_agent_that_permits_more_is_caught(self) -> None:
        def lenient(epochs: Epochs, threshold: int) -> AgentModel:
            return AgentModel(make_verifier(threshold), POOL, TUNNEL, read_allow("0.0.0.0/0", TUNNEL), epochs=epochs)

        target = Target(
            target_id="t", service_id=ServiceId("t"), proto="tcp", agent_port=22, agent_last_port=22,
            address="192.168.2.10", name="", port=22,
        )  # fmt: skip
        sequence = [("item", encode(target), "next")]

        attack(*AGENT, sequence)
        with pytest.raises(AssertionError, match="not what the site permits"):
            attack(lenient, *AGENT[1:], sequence)


class TestKnownAttacks:
    def test_a_certificate_that_was_narrowed_does_not_come_back_not_even_after_a_restart(self) -> None:
        victim = attack(
            *GATEWAY,
            [
                ("item", peer_of(SITE_A, 4), "next"),
                ("item", peer_of(SITE_A_BEFORE, 2), "next"),
                ("restart", None, None),
                ("snapshot", [peer_of(SITE_A_BEFORE, 2), route_to("site-a", "bank.example.com")], False),
            ],
        )

        held = victim.model.agents.get(NodeId("site-a"))  # to be without it is what a registry can always do
        assert held is None or held.serial == SITE_A.serial
        assert not any(facts.targets for facts in victim.model.routes.values())

    def test_two_signatures_by_one_stolen_key_are_one(self) -> None:
        once = widened(STOLEN_TRUST_KEY)
        twice = Signed(once.body, once.signatures * 2)

        assert not attack(*GATEWAY, [("item", peer_of(SITE_A, 3, twice), "next")]).model.agents

    def test_a_port_range_is_permitted_only_as_a_whole(self) -> None:
        """The first port alone was looked at once: a range behind it would have reached every port above."""
        records = [
            Target(
                target_id=f"t-{last}", service_id=ServiceId("t"), proto="tcp", agent_port=6000, agent_last_port=last,
                address="192.168.2.11", name="", port=6000,
            )
            for last in (6050, 6051, 60000)
        ]  # fmt: skip

        victim = attack(*AGENT, [("item", encode(record), "next") for record in records])

        assert set(victim.model.targets) == {"t-6050"}

    @pytest.mark.parametrize("ports", [(70000, 5), (0, 0), (6050, 6000), (6000, 65536), (-1, 7000)])
    def test_ports_that_are_no_range_fit_no_certificate(self, ports: tuple[int, int]) -> None:
        sequence = [("item", peer_of(SITE_A, 3), "next"), ("item", route_to("site-a", "", *ports), "next")]

        victim = attack(*GATEWAY, sequence)

        assert not any(facts.targets for facts in victim.model.routes.values())

    def test_a_record_that_cannot_be_read_spoils_its_snapshot_and_ends_nothing(self) -> None:
        victim = attack(
            *GATEWAY,
            [
                ("snapshot", [peer_of(SITE_A, 3)], False),
                ("snapshot", [b"\xc1"], False),
                ("snapshot", [encode(["route.v1", "wiki"])], False),
                ("snapshot", [peer_of(SITE_A, 4)], False),
            ],
        )

        assert victim.model.agents[NodeId("site-a")].epoch == 4

    async def test_a_snapshot_without_end_is_not_followed(self, tmp_path: Path) -> None:
        victim = Victim(*GATEWAY[:2], tmp_path, check_gateway)
        page = decode(victim.forger.page([], back=False), SnapshotPage)
        victim.bus.page = encode(with_fields(page, next_after="agent-peer/a"))

        await asyncio.wait_for(victim.follower._take_snapshot(STOPPED), 5)

        assert victim.follower.counters.snapshots == 0

    def test_a_trust_set_of_his_own_makes_no_deployment(self) -> None:
        """A node that enrols in the middle of the break-in: the join token names the trust set by its hash."""
        pinned = hashlib.sha256(encode(TRUST)).digest()
        fake = TrustSet(version=2, keys=(verify_key(OWN_KEY),), threshold=1)
        forged = sign(signing.TRUST_SET, DEPLOYMENT, encode(fake), OWN_KEY, STOLEN_TRUST_KEY)

        with pytest.raises(NotTrustedError, match="not the one that the join token names"):
            open_trust_set(DEPLOYMENT, forged, pinned)
        weak = sign(signing.TRUST_SET, DEPLOYMENT, encode(TRUST), STOLEN_TRUST_KEY)
        with pytest.raises(NotTrustedError, match="1 valid signatures"):
            open_trust_set(DEPLOYMENT, weak, pinned)
        assert open_trust_set(DEPLOYMENT, sign(signing.TRUST_SET, DEPLOYMENT, encode(TRUST), *TRUST_KEYS[1:]), pinned)
