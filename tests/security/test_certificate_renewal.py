"""A certificate goes on before it ends: by the node's own code, keyring and registry; PostgreSQL is real."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from nacl.signing import SigningKey

from kakuremichi.bus.memory import MemoryNats
from kakuremichi.bus.port import Bus
from kakuremichi.bus.serve import serve
from kakuremichi.model.keys import PrivateKey
from kakuremichi.node import certificate as renewing
from kakuremichi.node.announcing import Announcer, make_announcement
from kakuremichi.node.certificate import CertificateRenewer, check_next
from kakuremichi.node.renewal import RenewalError
from kakuremichi.node.state import Enrolment, NodeState
from kakuremichi.wire import requests, signing, subjects
from kakuremichi.wire.codec import decode, decode_any, encode
from kakuremichi.wire.commands import AccessRenewed, ListEvents, ReleaseNode, RemoveNode, RenewAccess, Written
from kakuremichi.wire.commands import Events as EventList
from kakuremichi.wire.enrolment import BusAccess, EnrolmentAnswer
from kakuremichi.wire.identity import NO_HASH, Announcement, Certificate
from kakuremichi.wire.records import AgentPeer, FeedItem, decode_record
from kakuremichi.wire.renewal import certificate_is_due, request_to_renew
from kakuremichi.wire.signing import Signed
from kakuremichi_keyring.handlers import Keyring
from kakuremichi_keyring.pin import TrustPin
from kakuremichi_registry import enrolment
from support.real_registry import POOL, Enrollee, World

pytestmark = pytest.mark.timeout(120)

DAY_S = 86400


@pytest.fixture(autouse=True)
async def keyring(nats: MemoryNats) -> None:
    made = Keyring(nats.connect("keyring"), TrustPin())
    await serve(nats.connect("keyring"), subjects.ANNOUNCE, requests.AnyAnnounce, made.answer, queue="keyring")


async def aged(world: World, days_left: int) -> Enrollee:
    """site-a, enrolled so long ago that its certificate, of 400 days, has so many left."""

    def then(now: float) -> tuple[int, int]:
        return int(now) + (days_left - 400) * DAY_S, int(now) + days_left * DAY_S

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(enrolment, "valid_from", then)
        return await world.enrol("site-a")


async def ask(nats: MemoryNats, node: Enrollee) -> renewing.Answer:
    bus = nats.connect(subjects.reply_prefix(node.node_id))
    reply = await bus.request(subjects.renew(node.node_id), encode(requests.RenewCertificate()), timeout_s=5)
    answer: renewing.Answer = decode_any(reply.data, renewing.Answer, name="answer")
    return answer


async def announce(nats: MemoryNats, node: Enrollee, signed: Signed) -> requests.KeyAccepted | requests.KeyRefused:
    bus = nats.connect(subjects.reply_prefix(node.node_id))
    request = encode(requests.Announce(announcement=signed))
    reply = await bus.request(subjects.announce(node.node_id), request, timeout_s=5)
    answer: requests.KeyAccepted | requests.KeyRefused = decode_any(
        reply.data, requests.KeyAccepted | requests.KeyRefused, name="answer"
    )
    return answer


@dataclass
class Site:
    """A node's own loops on a state directory, without a data plane."""

    state: NodeState
    enrolment: Enrolment
    announcer: Announcer
    renewer: CertificateRenewer
    warned: list[str]
    accepted: list[int] = field(default_factory=list)  # serials, as the keyring took them

    @property
    def certificate(self) -> Certificate:
        return self.state.newest(self.enrolment).node


async def nothing() -> None:
    pass


def site_of(node: Enrollee, world: World, bus: Bus, folder: Path) -> Site:
    state = NodeState(folder)
    state.open()
    (folder / "identity.seed").write_text(bytes(node.identity).hex())
    enrolled = node.enrolled
    held = Enrolment(
        EnrolmentAnswer(
            deployment=enrolled.deployment, certificate=enrolled.certificate, trust=enrolled.trust,
            feed_key=enrolled.feed_key, endpoints=(), bus=BusAccess(url="tls://bus.test:4222", jwt=enrolled.bus_jwt),
        ),
        "https://control.test",
    )  # fmt: skip
    state.save_enrolment(held)
    made = make_announcement(held, state.identity(), None, node.private.public(), boot_id=state.boot_id(), endpoints=())
    state.save_announcement(made)

    async def accepted(said: Announcement) -> None:
        site.accepted.append(said.serial)

    announcer = Announcer(bus, state, held, lambda _error: None, new_key=nothing, on_accepted=accepted)
    warned: list[str] = []
    renewer = CertificateRenewer(bus, state, held, held.verifier(), announcer.announce_again, warned.append)
    site = Site(state, held, announcer, renewer, warned)
    assert world.trust.deployment == held.deployment
    return site


@asynccontextmanager
async def running(site: Site) -> AsyncIterator[None]:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(loop(stop)) for loop in (site.announcer.run, site.renewer.run)]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110  (several things are waited for)
            await asyncio.sleep(0.01)


async def test_a_node_renews_its_certificate_and_keeps_its_key(
    registry_world: World, nats: MemoryNats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewing, "LOOK_S", 0.05)
    node = await aged(registry_world, 130)
    old = node.certificate
    site = site_of(node, registry_world, nats.connect(subjects.reply_prefix(node.node_id)), tmp_path / "site-a")

    async with running(site):
        await until(lambda: 2 in site.accepted)

    assert site.certificate == replace(
        old, serial=2, not_before=site.certificate.not_before, not_after=site.certificate.not_after
    )
    assert site.certificate.not_after > time.time() + 399 * DAY_S
    row = (await registry_world.database.fetch("select serial, certificate, public_key, epoch from node"))[0]
    assert (row["serial"], row["public_key"]) == (2, node.private.public())
    assert decode(row["certificate"], Signed) == site.state.newest(site.enrolment).answer.certificate
    item = (await registry_world.database.fetch("select body from feed_live where feed = $1", f"feed.pool.{POOL}"))[0]
    peer = decode_record(bytes(decode(item["body"], FeedItem).record))
    assert isinstance(peer, AgentPeer)
    certificate, said = registry_world.verifier().peer(peer.certificate, peer.announcement, "agent", new=True)
    assert (certificate.serial, said.serial, said.public_key) == (2, 2, node.private.public())
    assert await registry_world.database.fetch("select * from node_renewal") == []
    events = await registry_world.ask(ListEvents(actor="test"))
    assert isinstance(events, EventList)
    assert "node-renewed" in [event.topic for event in events.items]


async def test_what_has_more_than_a_third_left_is_not_renewed(registry_world: World, nats: MemoryNats) -> None:
    node = await aged(registry_world, 140)
    assert not certificate_is_due(node.certificate, time.time())

    refused = await ask(nats, node)

    assert isinstance(refused, requests.RenewalRefused)
    assert refused.code == "not-due"


async def test_one_that_is_over_can_still_be_renewed(registry_world: World, nats: MemoryNats) -> None:
    """The bus lets the node in: it was neither removed nor revoked, only away for a long time."""
    node = await aged(registry_world, -30)
    expired = await announce(nats, node, node.announcement())
    assert isinstance(expired, requests.KeyRefused)
    assert "expired" in expired.detail

    answer = await ask(nats, node)

    assert isinstance(answer, requests.CertificateRenewed)
    node.enrolled = replace(node.enrolled, certificate=answer.certificate)
    assert isinstance(await announce(nats, node, node.announcement()), requests.KeyAccepted)


async def test_until_the_node_has_it_the_present_one_counts(registry_world: World, nats: MemoryNats) -> None:
    node = await aged(registry_world, 100)
    answers = await asyncio.gather(*(ask(nats, node) for _ in range(6)))
    assert len(set(answers)) == 1

    assert isinstance(await announce(nats, node, node.announcement()), requests.KeyAccepted)
    lost = await ask(nats, node)  # the answers before were lost
    assert lost in answers
    assert isinstance(lost, requests.CertificateRenewed)
    node.enrolled = replace(node.enrolled, certificate=lost.certificate)
    # Over HTTP it is known by the next one before anybody has heard it announce with that.
    wish = request_to_renew(registry_world.trust.deployment, node.node_id, 2, node.identity)
    renewed = await registry_world.ask(RenewAccess(actor="node", renewal=wish.renewal, source="198.51.100.7"))
    assert isinstance(renewed, AccessRenewed)
    assert isinstance(await announce(nats, node, node.announcement()), requests.KeyAccepted)
    # From here on the former one is over.
    former = registry_world.trust.certify(replace(node.certificate, serial=1))
    node.enrolled = replace(node.enrolled, certificate=former)
    refused = await announce(nats, node, node.announcement())
    assert isinstance(refused, requests.KeyRefused)
    assert refused.code == "unknown-node"


async def test_a_refused_key_leaves_the_present_certificate(registry_world: World, nats: MemoryNats) -> None:
    node, other = await aged(registry_world, 100), await registry_world.enrol("site-b")
    assert isinstance(await announce(nats, other, other.announcement()), requests.KeyAccepted)
    answer = await ask(nats, node)
    assert isinstance(answer, requests.CertificateRenewed)
    node.enrolled = replace(node.enrolled, certificate=answer.certificate)

    stolen = await announce(nats, node, node.announcement(key=other.private.public()))

    assert isinstance(stolen, requests.KeyRefused)
    assert stolen.code == "held"
    row = (await registry_world.database.fetch("select serial from node where node_id = 'site-a'"))[0]
    assert row["serial"] == 1
    assert isinstance(await announce(nats, node, node.announcement()), requests.KeyAccepted)


async def test_serials_that_were_signed_are_never_given_to_another(registry_world: World, nats: MemoryNats) -> None:
    node = await aged(registry_world, 100)
    assert isinstance(await ask(nats, node), requests.CertificateRenewed)  # signed with serial 2, never announced
    removed = await registry_world.ask(RemoveNode(actor="admin", role="agent", node_id=node.node_id))
    assert isinstance(removed, Written)

    gone = await ask(nats, node)
    again = await registry_world.enrol("site-a")

    assert isinstance(gone, requests.RenewalRefused)
    assert gone.code == "unknown-node"
    assert again.certificate.serial == 3


async def test_a_proposal_that_is_over_too_is_made_anew(registry_world: World, nats: MemoryNats) -> None:
    node = await aged(registry_world, 10)
    first = await ask(nats, node)
    assert isinstance(first, requests.CertificateRenewed)
    proposed = decode(first.certificate.body, Certificate)
    late = replace(proposed, not_before=proposed.not_before - 390 * DAY_S, not_after=proposed.not_after - 390 * DAY_S)
    await registry_world.database.execute(
        "update node_renewal set certificate = $1", encode(registry_world.trust.certify(late))
    )

    second = await ask(nats, node)

    assert isinstance(second, requests.CertificateRenewed)
    assert decode(second.certificate.body, Certificate).serial == 3


async def test_a_quarantined_node_is_released_first(registry_world: World, nats: MemoryNats) -> None:
    node = await aged(registry_world, 100)
    assert isinstance(await announce(nats, node, node.announcement()), requests.KeyAccepted)
    node.previous = NO_HASH
    clone = await announce(nats, node, node.announcement())
    assert isinstance(clone, requests.KeyRefused)
    assert clone.code == "quarantined"

    refused = await ask(nats, node)

    assert isinstance(refused, requests.RenewalRefused)
    assert refused.code == "quarantined"
    assert isinstance(await registry_world.ask(ReleaseNode(actor="ann", role="agent", node_id=node.node_id)), Written)
    assert isinstance(await ask(nats, node), requests.CertificateRenewed)


@pytest.mark.parametrize("change", ["identity", "subnet", "name", "pool", "signature", "old", "expired"])
async def test_a_node_takes_no_certificate_that_is_not_its_own_next_one(registry_world: World, change: str) -> None:
    held = (await aged(registry_world, 100)).certificate
    now = int(time.time())
    fresh = replace(held, serial=2, not_before=now, not_after=now + 400 * DAY_S)
    others: dict[str, dict[str, Any]] = {
        "identity": {"identity_key": bytes(SigningKey.generate().verify_key)},
        "subnet": {"subnet": "10.9.9.0/24"},
        "name": {"node_id": "site-b"},
        "pool": {"pool": "other"},
        "signature": {},
        "old": {"serial": 1},
        "expired": {"not_before": now - 500 * DAY_S, "not_after": now - 100 * DAY_S},
    }
    changed = replace(fresh, **others[change])
    signed = registry_world.trust.certify(changed)
    if change == "signature":
        feed_key = registry_world.trust.feed_key
        signed = signing.sign(signing.CERTIFICATE, registry_world.trust.deployment, encode(changed), feed_key)
    verifier = registry_world.verifier()

    with pytest.raises(RenewalError):
        check_next(signed, held, verifier)

    wider = replace(fresh, hosts=("wiki.example.com",), ports=("443",))
    assert check_next(registry_world.trust.certify(wider), held, verifier) == wider


async def test_a_rotation_in_between_goes_with_the_certificate_of_its_moment(
    registry_world: World, nats: MemoryNats, tmp_path: Path
) -> None:
    """What makes announcements looks at the disk, not at what the process began with."""
    node = await aged(registry_world, 100)
    site = site_of(node, registry_world, nats.connect(subjects.reply_prefix(node.node_id)), tmp_path / "site-a")
    answer = await ask(nats, node)
    assert isinstance(answer, requests.CertificateRenewed)
    site.renewer._take(site.enrolment, answer.certificate)

    said = make_announcement(
        site.state.newest(site.enrolment), site.state.identity(), site.state.announcement(),
        PrivateKey.generate().public(), boot_id=site.state.boot_id(), endpoints=(),
    )  # fmt: skip
    site.state.save_announcement(said)
    async with running(site):
        await until(lambda: 2 in site.accepted)

    row = (await registry_world.database.fetch("select serial, public_key from node"))[0]
    kept = site.state.announcement()
    assert kept is not None
    assert (row["serial"], row["public_key"]) == (2, kept[1].public_key)
