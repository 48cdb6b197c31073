"""Without the control plane a peer may move its own key forward, and nothing else."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from kakuremichi.model.ids import PoolName
from kakuremichi.model.keys import PrivateKey
from kakuremichi.node.direct import DirectPeers, DirectRecords, DirectRefusedError
from kakuremichi.reconcile.epochs import Epochs
from kakuremichi.reconcile.holding import Key
from kakuremichi.wire.direct import Exchange
from kakuremichi.wire.records import AgentPeer, AnyRecord, Revocation
from kakuremichi_agent.allow import default_allow
from kakuremichi_agent.model import AgentModel
from kakuremichi_gateway.model import GatewayModel
from support.feedmaker import verifier
from support.people import MAIN, Person

SITE_A = Person("site-a", subnet="10.1.0.0/24")
SITE_B = Person("site-b", subnet="10.2.0.0/24")
GW1 = Person("gw1", role="gateway", slot=1)
KEY_A: Key = ("agent-peer", "site-a")
NEW_KEY = PrivateKey(b"n" * 32).public()


def exchange(person: Person, epoch: int = 1, **changes: object) -> Exchange:
    return Exchange(certificate=person.certificate(), announcement=person.announcement(epoch, **changes))  # type: ignore[arg-type]


@dataclass
class Side:
    """A gateway that knows site-a and site-b by its feed, site-a with epoch 5. `wanted` is what became to be done."""

    now: Callable[[], float] = time.time
    feed: dict[Key, AnyRecord] = field(default_factory=dict)
    records: DirectRecords = field(default_factory=DirectRecords)
    epochs: Epochs = field(default_factory=Epochs)
    wanted: list[Key] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.feed = self.feed or {KEY_A: SITE_A.agent_peer(5), ("agent-peer", "site-b"): SITE_B.agent_peer(5)}
        trusted = verifier()
        trusted.now = self.now
        self.model = GatewayModel(trusted, MAIN, epochs=self.epochs)
        self.direct = DirectPeers(
            "agent", MAIN, trusted, self.epochs, self.records, self.feed.get, self.model.check, self.wanted.extend
        )
        self.bring(*self.feed)

    def bring(self, *keys: Key) -> dict[Key, str]:
        """What the worker does with keys that changed."""
        return self.model.take((key, self.records.prefer(key, self.feed.get(key))) for key in keys).errors

    def says(self, said: Exchange) -> bool:
        taken = self.direct.take(said)
        self.bring(*self.wanted)
        self.wanted.clear()
        return taken

    def refuses(self, said: Exchange, reason: str) -> None:
        before = dict(self.model.agents)
        with pytest.raises(DirectRefusedError, match=reason):
            self.direct.take(said)
        assert not self.wanted
        assert self.bring(*self.feed) == {}
        assert self.model.agents == before


def test_a_listed_agent_moves_its_key_forward() -> None:
    gateway = Side()

    assert gateway.says(exchange(SITE_A, 6, key=NEW_KEY))

    assert gateway.model.agents[SITE_A.node_id].public_key == NEW_KEY


def test_what_is_known_already_is_answered_and_changes_nothing() -> None:
    gateway = Side()
    gateway.says(exchange(SITE_A, 6, key=NEW_KEY))

    assert not gateway.says(exchange(SITE_A, 6, key=NEW_KEY))
    assert not gateway.says(exchange(SITE_B, 5))


def test_an_old_announcement_replayed_changes_nothing() -> None:
    gateway = Side()
    gateway.says(exchange(SITE_A, 6, key=NEW_KEY))

    gateway.refuses(exchange(SITE_A, 5), "epoch 5 does not follow 6")
    gateway.refuses(exchange(SITE_A, 6), "epoch 6 does not follow 6")  # the same epoch with another key


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (exchange(Person("site-c", subnet="10.3.0.0/24"), 9), "no agent of pool main by the last known feed"),
        (exchange(Person("site-a", subnet="10.1.0.0/24", pool="blue"), 9), "no agent of pool main"),
        (exchange(Person("site-a", role="gateway", slot=3), 9), "role gateway, agent is needed"),
        (exchange(SITE_A, 9, signer=SigningKey(b"x" * 32)), "announcement of site-a"),
        (Exchange(certificate=SITE_B.certificate(), announcement=SITE_A.announcement(9)), "announcement of site-b"),
        (
            Exchange(certificate=SITE_A.certificate(SigningKey(b"x" * 32)), announcement=SITE_A.announcement(9)),
            "certificate",
        ),
        (exchange(SITE_A, 9, key=SITE_B.public_key), "its key is that of site-b"),
        (exchange(SITE_A, 9, key=bytes(32)), "all bytes are zero"),
    ],
    ids=["unlisted", "other-pool", "other-role", "forged", "swapped", "uncertified", "stolen-key", "zero-key"],
)
def test_anything_else_is_refused(said: Exchange, reason: str) -> None:
    Side().refuses(said, reason)


def test_an_agent_whose_certificate_has_ended_cannot_come_back_this_way() -> None:
    later = time.time() + 7200
    listed = Side(epochs=_known(SITE_A, SITE_B), now=lambda: later)
    assert SITE_A.node_id in listed.model.agents  # what was taken while it was valid stays, also after a restart

    listed.refuses(exchange(SITE_A, 6), "not valid at this time")


def test_a_certificate_that_was_replaced_is_worth_nothing() -> None:
    renewed = Person("site-a", subnet="10.1.0.0/24", serial=2)
    gateway = Side(feed={KEY_A: renewed.agent_peer(5)})

    gateway.refuses(exchange(SITE_A, 6), "certificate 1 was replaced by 2")


def test_a_revoked_agent_cannot_come_back_with_a_newer_epoch_of_its_own() -> None:
    gateway = Side()
    gateway.model.take([(("revocation", "site-a"), Revocation(node_id=SITE_A.node_id, epoch=5))])

    with pytest.raises(DirectRefusedError, match="site-a: revoked"):
        gateway.direct.take(exchange(SITE_A, 6, key=NEW_KEY))

    gateway.feed[KEY_A] = SITE_A.agent_peer(7)  # the feed may bring it back
    assert not gateway.bring(KEY_A)
    assert gateway.says(exchange(SITE_A, 8))


def test_an_agent_that_was_removed_is_forgotten_with_all_that_it_said() -> None:
    gateway = Side()
    gateway.says(exchange(SITE_A, 6, key=NEW_KEY))

    del gateway.feed[KEY_A]
    gateway.bring(KEY_A)

    assert SITE_A.node_id not in gateway.model.agents
    gateway.refuses(exchange(SITE_A, 7), "no agent of pool main")


def test_the_feed_takes_over_as_soon_as_it_is_as_new() -> None:
    gateway = Side()
    gateway.says(exchange(SITE_A, 6, key=NEW_KEY))

    gateway.feed[KEY_A] = SITE_A.agent_peer(5)  # an older one comes late: the newer key stays
    assert gateway.bring(KEY_A) == {}
    assert gateway.model.agents[SITE_A.node_id].public_key == NEW_KEY
    gateway.feed[KEY_A] = SITE_A.agent_peer(6, NEW_KEY)
    assert gateway.bring(KEY_A) == {}

    assert gateway.records.prefer(KEY_A, None) is None  # nothing is kept beside it any more


def test_what_came_directly_is_there_again_after_a_restart(run_dir: Path) -> None:
    path = run_dir / "direct"
    gateway = Side(records=DirectRecords(path))
    gateway.says(exchange(SITE_A, 6, key=NEW_KEY))
    gateway.records.flush()

    again = Side(records=DirectRecords.load(path), epochs=gateway.epochs)

    assert again.model.agents[SITE_A.node_id].public_key == NEW_KEY
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", [b"", b"\x93", b"\x00" * 40])
def test_a_damaged_file_costs_only_what_was_in_it(run_dir: Path, damage: bytes) -> None:
    (run_dir / "direct").write_bytes(damage)

    records = DirectRecords.load(run_dir / "direct")

    assert records.prefer(KEY_A, None) is None


def test_only_who_is_listed_signed_and_not_revoked_is_worth_asking() -> None:
    gateway = Side()
    good = SITE_A.agent_peer(5)

    assert gateway.direct.announced(good)
    assert gateway.direct.announced(None) is None
    assert gateway.direct.announced(GW1.gateway_peer()) is None
    forged = AgentPeer(
        node_id=SITE_A.node_id,
        certificate=good.certificate,
        announcement=SITE_A.announcement(6, signer=SigningKey(b"x" * 32)),
    )
    assert gateway.direct.announced(forged) is None
    gateway.epochs.revoke(Revocation(node_id=SITE_A.node_id, epoch=5))
    assert gateway.direct.announced(good) is None


def test_an_agent_judges_gateways_by_the_same_rules() -> None:
    tunnel = ip_network("10.9.0.0/24")
    wanted: list[Key] = []
    epochs, records = Epochs(), DirectRecords()
    key: Key = ("gateway-peer", "gw1")
    feed: dict[Key, AnyRecord] = {key: GW1.gateway_peer(5)}
    model = AgentModel(verifier(), MAIN, tunnel, default_allow([], tunnel), epochs=epochs)  # type: ignore[arg-type]
    direct = DirectPeers("gateway", MAIN, verifier(), epochs, records, feed.get, model.check, wanted.extend)
    model.take(feed.items())

    assert direct.take(exchange(GW1, 6, key=NEW_KEY))
    model.take((key, records.prefer(key, feed[key])) for key in wanted)

    assert model.gateways[GW1.node_id].public_key == NEW_KEY
    for said, reason in (
        (exchange(GW1, 5), "epoch 5 does not follow 6"),
        (exchange(Person("gw2", role="gateway", slot=2), 9), "no gateway of pool main"),
        (exchange(SITE_A, 9), "role agent, gateway is needed"),
        (exchange(Person("gw1", role="gateway", slot=1, endpoint="example.org"), 9), "not an IPv4 or IPv6 address"),
    ):
        with pytest.raises(DirectRefusedError, match=reason):
            direct.take(said)


def _known(*people: Person) -> Epochs:
    """What the epochs file of an earlier life holds."""
    before = GatewayModel(verifier(), PoolName("main"))
    before.take((("agent-peer", person.name), person.agent_peer(5)) for person in people)
    epochs = Epochs()
    epochs.replay(before.epochs.everything())
    return epochs
