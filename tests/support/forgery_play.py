"""A forger's messages on a node's own follower and model, and what the owners have signed to compare with."""

import asyncio
import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Raw
from structlog.testing import capture_logs

from kakuremichi.bus.port import Handler, Message
from kakuremichi.dataplane.haproxy.desired import HttpService, ServiceRefusedError
from kakuremichi.dataplane.nftables.agent import AgentTable, agent_elements
from kakuremichi.dataplane.nftables.agent import Target as TableTarget
from kakuremichi.dataplane.nftables.elements import ItemRefusedError, Ports
from kakuremichi.dataplane.nftables.gateway import gateway_elements
from kakuremichi.model.addresses import agent_address, gateway_address
from kakuremichi.model.ids import LogId, NodeId
from kakuremichi.model.keys import PublicKey
from kakuremichi.reconcile.epochs import Epochs
from kakuremichi.reconcile.follower import Applied, Follower
from kakuremichi.reconcile.holding import MODULUS, Holding
from kakuremichi.reconcile.journal import Journal
from kakuremichi.reconcile.verify import Verifier
from kakuremichi.wire import signing
from kakuremichi.wire.codec import encode
from kakuremichi.wire.identity import NO_HASH, TrustSet
from kakuremichi.wire.records import FeedItem, Head
from kakuremichi.wire.requests import SnapshotPage
from kakuremichi.wire.signing import sign
from kakuremichi_agent.allow import read_allow
from kakuremichi_agent.model import AgentModel
from kakuremichi_gateway.model import GatewayModel
from kakuremichi_gateway.publishing import L4Section, proxied_service
from support.forger import (
    ANNOUNCEMENTS,
    DEPLOYMENT,
    EPOCHS,
    FEED_KEY,
    FEED_KEY_CERTIFICATE,
    OWN_KEY,
    POOL,
    TRUST,
    Owner,
)

LOG = LogId("log-1")
TUNNEL = IPv4Network("10.1.0.0/24")
ALLOW = "192.168.2.10/32 8080 tcp\n192.168.2.11/32 6000-6050\n127.0.0.1/32 80\n"
# What the site permits, in words of the test's own: (protocols, address, first port, last port).
PERMITTED = (
    ({"tcp"}, "192.168.2.10", 8080, 8080),
    ({"tcp", "udp"}, "192.168.2.11", 6000, 6050),
    ({"tcp", "udp"}, "127.0.0.1", 80, 80),
)

Model = TypeVar("Model", GatewayModel, AgentModel)


class NoBus:
    """The bus of a follower whose messages the forger hands over himself; it answers with his snapshot pages."""

    def __init__(self) -> None:
        self.page = b""
        self.generation = 1

    async def request(self, _subject: str, _data: bytes, **_options: object) -> Message:
        return Message("reply", self.page)

    async def subscribe(self, _subject: str, _handler: Handler, **_options: object) -> None: ...


@dataclass
class Forger:
    """Writes a feed with the feed key. `sent` is everything, for saying it again."""

    feed: str
    seq: int = 0
    hash: bytes = NO_HASH
    sent: list[bytes] = field(default_factory=list)

    def item(self, record: bytes, delivery: str) -> bytes | None:
        if delivery == "again":
            return self.sent[self.seq % len(self.sent)] if self.sent else None
        place, prev = self.seq + 1 + (delivery == "gap"), b"h" * 32 if delivery == "fork" else self.hash
        feed, log = ("feed.pool.blue" if delivery == "other-feed" else self.feed), LOG
        if delivery == "other-log":
            log = LogId("log-2")
        body = _item_body(feed, place, prev, record, log)
        key = OWN_KEY if delivery == "own-key" else FEED_KEY
        if delivery == "next":
            self.seq, self.hash = place, hashlib.sha256(body).digest()
        data = encode(sign(signing.FEED_ITEM, DEPLOYMENT, body, key))
        self.sent.append(data)
        return data

    def page(self, records: list[bytes], *, back: bool) -> bytes:
        """A snapshot of these records, at the place where the feed is, or far behind it."""
        items = []
        for record in records:
            self.seq += 1
            body = _item_body(self.feed, self.seq, self.hash, record, LOG)
            self.hash = hashlib.sha256(body).digest()
            items.append(sign(signing.FEED_ITEM, DEPLOYMENT, body, FEED_KEY))
        total = sum(int.from_bytes(hashlib.sha256(item.body).digest(), "big") for item in items) % MODULUS
        head = Head(
            log_id=LOG, feed=self.feed, feed_seq=0 if back else self.seq, hash=self.hash, count=len(items),
            sum=total.to_bytes(32, "big"), at_ms=0,
        )  # fmt: skip
        page = SnapshotPage(
            feed=self.feed, feed_key=FEED_KEY_CERTIFICATE, head=sign(signing.HEAD, DEPLOYMENT, encode(head), FEED_KEY),
            items=tuple(items), next_after="",
        )  # fmt: skip
        return encode(page)


def _item_body(feed: str, seq: int, prev: bytes, record: bytes, log: LogId) -> bytes:
    # By hand: what the forger calls a record may be no MessagePack at all.
    shell = encode(FeedItem(log_id=log, feed=feed, feed_seq=seq, prev_hash=prev, record=Raw(b"\xc0")))
    return shell[:-1] + record


def make_verifier(threshold: int = TRUST.threshold) -> Verifier:
    made = Verifier(DEPLOYMENT, TrustSet(version=1, keys=TRUST.keys, threshold=threshold))
    made.learn_feed_key(FEED_KEY_CERTIFICATE)
    return made


def gateway_model(epochs: Epochs, threshold: int) -> GatewayModel:
    return GatewayModel(make_verifier(threshold), POOL, epochs=epochs)


def agent_model(epochs: Epochs, threshold: int) -> AgentModel:
    return AgentModel(make_verifier(threshold), POOL, TUNNEL, read_allow(ALLOW, TUNNEL), epochs=epochs)


@dataclass
class Victim:
    """A node's own follower and model. `restart` keeps what a node keeps on disk: journal and epochs."""

    make: Callable[[Epochs, int], Any]
    feed: str
    folder: Path
    check: Callable[["Victim"], None]
    threshold: int = TRUST.threshold
    epochs: Epochs = field(default_factory=Epochs)
    highest: dict[NodeId, tuple[int, PublicKey]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.forger = Forger(self.feed)
        self.start()

    def start(self) -> None:
        kept = Epochs()
        kept.replay(self.epochs.everything())
        self.epochs, self.model, self.bus = kept, self.make(kept, self.threshold), NoBus()
        journal = Journal(self.folder, self.feed)
        verifier = make_verifier(self.threshold)
        bus: Any = self.bus
        self.follower = Follower(bus, NodeId("site-a"), Holding(self.feed), verifier, journal, self.applied)
        self.follower.load()
        self.take_all()

    def applied(self, step: Applied) -> None:
        self.model.take((key, self.follower.holding.desired(key)) for key in sorted(step.change.keys))
        self.check(self)

    def take_all(self) -> None:
        self.model.take(sorted(self.follower.holding.records(), key=lambda pair: pair[0]))
        self.check(self)

    async def hear(self, step: tuple[str, Any, Any]) -> None:
        kind, what, how = step
        if (cursor := self.follower.holding.cursor) is not None:  # he sees from the reports how far the node has come
            self.forger.seq, self.forger.hash = cursor.feed_seq, cursor.hash
        match kind:
            case "item":
                data = self.forger.item(what, how)
                if data is not None:
                    self.follower._take(Message(self.feed, data))
            case "noise":
                self.follower._take(Message(self.feed if how else "beacon.pool.main", what))
            case "snapshot":
                self.bus.page = self.forger.page(what, back=how)
                await self.follower._take_snapshot(STOPPED)
            case "restart":
                self.follower.journal.close()
                self.start()
        self.model.take(())
        self.check(self)


STOPPED = asyncio.Event()
STOPPED.set()


def genuine(node: NodeId, key: PublicKey, epoch: int) -> Owner:
    """The owner who has signed just this, in a certificate that is good now."""
    for owner, at in ANNOUNCEMENTS:
        if (owner.name, at) == (node, epoch) and owner.key(at) == key:
            return owner
    raise AssertionError(f"{node}: nobody has signed epoch {epoch} with that key")


def check_order(victim: Victim, node: NodeId, key: PublicKey, epoch: int) -> None:
    before, held = victim.highest.get(node, (0, key))
    assert epoch >= before, f"{node}: epoch {epoch} after {before}"
    assert epoch > before or key == held, f"{node}: two keys of epoch {epoch}"
    victim.highest[node] = (epoch, key)


def check_gateway(victim: Victim) -> None:
    model: GatewayModel = victim.model
    at: dict[object, Owner] = {}
    for node, facts in model.agents.items():
        owner = genuine(node, facts.public_key, facts.epoch)
        body = owner.certificate_body()
        assert (body.role, body.pool) == ("agent", POOL)
        assert str(facts.subnet) == body.subnet
        assert facts.address == agent_address(facts.subnet)
        assert facts.epoch in EPOCHS[owner]
        check_order(victim, node, facts.public_key, facts.epoch)
        at[facts.address] = owner
    assert len({facts.public_key for facts in model.agents.values()}) == len(model.agents)
    assert len({facts.subnet for facts in model.agents.values()}) == len(model.agents)
    section = L4Section(model, None, None, "kk0", 1)  # type: ignore[arg-type]  # only its translation is asked for
    for route in model.routes.values():
        if route.kind == "http":
            _check_http(route, at)
        else:
            _check_l4(route, section, at)


def _check_http(facts: Any, at: dict[object, Owner]) -> None:
    try:
        service = proxied_service(facts)
    except ServiceRefusedError:
        return
    assert isinstance(service, HttpService)
    for server in service.servers:
        assert {service.host, "*"} & set(at[server.address].hosts), f"{service.host} is not for {server.address}"


def _check_l4(facts: Any, section: L4Section, at: dict[object, Owner]) -> None:
    try:
        service = section._l4(facts)
        if not gateway_elements(service):
            return
    except ItemRefusedError:
        return
    held: set[int] = set()
    for text in at[service.target].ports:
        low, _, high = text.partition("-")
        held |= set(range(1, 65536)) if text == "*" else set(range(int(low), int(high or low) + 1))
    assert set(range(service.ports.first, service.ports.last + 1)) <= held, f"{service.ports} are not for this agent"


def check_agent(victim: Victim) -> None:
    model: AgentModel = victim.model
    for node, facts in model.gateways.items():
        owner = genuine(node, facts.public_key, facts.epoch)
        assert (owner.role, owner.pool) == ("gateway", POOL)
        assert facts.address == gateway_address(TUNNEL, owner.slot)
        assert str(facts.endpoint) == f"203.0.113.{owner.slot}:51820"
        check_order(victim, node, facts.public_key, facts.epoch)
    table = AgentTable("kk0", agent_address(TUNNEL), frozenset())
    for target in model.targets.values():
        ports = Ports(target.first_port, target.last_port)
        proto: Any = target.proto
        try:
            agent_elements(table, proto, ports, TableTarget(target.address, target.port))
        except ItemRefusedError:
            continue
        last = target.port + ports.last - ports.first
        assert any(
            target.proto in protos and str(target.address) == address and first <= target.port <= last <= end
            for protos, address, first, end in PERMITTED
        ), f"{target} is not what the site permits"


def attack(make: Any, feed: str, check: Any, sequence: list[Any], threshold: int = TRUST.threshold) -> Victim:
    with tempfile.TemporaryDirectory(prefix="kk-forgery-") as at, capture_logs():
        victim = Victim(make, feed, Path(at), check, threshold)

        async def play() -> None:
            for step in (("snapshot", [], False), *sequence):  # without a first snapshot nothing is heard
                await victim.hear(step)

        asyncio.run(play())
        victim.follower.journal.close()
        return victim
