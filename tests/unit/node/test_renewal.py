"""A node's credentials for the bus: when they are renewed, by which way, and what is not believed."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from kakuremichi.bus.issuer import RoleIssuer, node_user
from kakuremichi.bus.jwt import Signer
from kakuremichi.bus.memory import MemoryNats
from kakuremichi.bus.port import Bus, Message
from kakuremichi.bus.topology import AGENT
from kakuremichi.model.ids import NodeId, PoolName
from kakuremichi.node import renewal
from kakuremichi.node.renewal import BusPass, RenewalError, Renewer, check_jwt, renewal_at
from kakuremichi.node.state import Enrolment, NodeState
from kakuremichi.runtime.backoff import Backoff
from kakuremichi.wire import requests, subjects
from kakuremichi.wire.codec import encode
from kakuremichi.wire.enrolment import BusAccess, EnrolmentAnswer
from kakuremichi.wire.signing import TRUST_SET, sign, verify_key
from support.feedmaker import DEPLOYMENT, TRUST, TRUST_KEY, feed_key_certificate
from support.people import Person

SITE = Person("site-a")
DAY_S = 86400
ROLE_KEY = Signer("account", SigningKey(bytes(32)))
ISSUER = RoleIssuer(AGENT, ROLE_KEY.public, ROLE_KEY)


def jwt_for(state: NodeState, *, life_s: float = DAY_S, now: float | None = None) -> str:
    key = verify_key(state.identity())
    return node_user(ISSUER, key, NodeId("site-a"), PoolName("default"), life_s=life_s, now=now)


@pytest.fixture
def state(tmp_path: Path) -> NodeState:
    made = NodeState(tmp_path / "state")
    made.open()
    return made


def enrolment_with(jwt: str) -> Enrolment:
    return Enrolment(
        EnrolmentAnswer(
            deployment=DEPLOYMENT,
            certificate=SITE.certificate(),
            trust=sign(TRUST_SET, DEPLOYMENT, encode(TRUST), TRUST_KEY),
            feed_key=feed_key_certificate(),
            endpoints=(),
            bus=BusAccess(url="nats://127.0.0.1:4222", jwt=jwt),
        ),
        "http://control.test",
    )


class Portal:
    """Answers with what it is told, and counts."""

    def __init__(self, answer: Callable[[], str]) -> None:
        self.answer, self.asked = answer, 0

    async def __call__(self) -> str:
        self.asked += 1
        return self.answer()


def no_portal() -> str:
    raise RenewalError("http://control.test: nobody answers")


async def test_what_still_holds_is_shown_without_asking_anybody(state: NodeState) -> None:
    text = jwt_for(state)
    portal = Portal(no_portal)

    credentials = await BusPass(state, enrolment_with(text), portal).credentials()

    assert (credentials.jwt, portal.asked) == (text, 0)
    state.identity().verify_key.verify(b"nonce", credentials.sign(b"nonce"))


async def test_an_expired_one_is_renewed_over_http_and_kept(state: NodeState) -> None:
    fresh = jwt_for(state)
    portal = Portal(lambda: fresh)
    access = BusPass(state, enrolment_with(jwt_for(state, now=time.time() - 3 * DAY_S)), portal)

    assert (await access.credentials()).jwt == fresh
    assert (await access.credentials()).jwt == fresh
    assert portal.asked == 1
    assert (state.directory / "bus.jwt").stat().st_mode & 0o777 == 0o600
    assert BusPass(state, enrolment_with("older"), portal).text == fresh


async def test_one_that_the_server_refuses_is_renewed_even_if_our_clock_says_that_it_holds(state: NodeState) -> None:
    fresh, refusals = jwt_for(state, life_s=2 * DAY_S), 0
    portal = Portal(lambda: fresh)
    access = BusPass(state, enrolment_with(jwt_for(state)), portal, refusals=lambda: refusals)
    await access.credentials()
    refusals = 1
    assert (await access.credentials()).jwt == fresh
    assert (await access.credentials()).jwt == fresh
    assert portal.asked == 1


async def test_a_portal_that_does_not_answer_is_not_asked_all_the_time(state: NodeState) -> None:
    now = time.time()
    portal = Portal(no_portal)
    access = BusPass(state, enrolment_with(jwt_for(state, now=now - 3 * DAY_S)), portal, now=lambda: now)
    failures = 0
    for _ in range(3000):
        now += 0.1
        try:
            await access.credentials()
        except RenewalError:
            failures += 1
    assert portal.asked == failures
    assert 15 <= portal.asked <= 90  # of 300 s


@pytest.mark.parametrize("text", ["", "junk", "a.b.c"])
async def test_a_damaged_file_counts_as_expired(state: NodeState, text: str) -> None:
    state.save_bus_jwt(text)
    fresh = jwt_for(state)
    assert (await BusPass(state, enrolment_with("junk"), Portal(lambda: fresh)).credentials()).jwt == fresh


def test_a_jwt_for_another_key_or_without_an_end_is_not_taken(state: NodeState, tmp_path: Path) -> None:
    other = NodeState(tmp_path / "other")
    other.open()
    for bad, why in (
        (jwt_for(other), "another identity key"),
        (jwt_for(state, life_s=-5), "no end after its beginning"),
        ("junk", "not three parts"),
    ):
        with pytest.raises(RenewalError, match=why):
            check_jwt(bad, state.identity())
    access = BusPass(state, enrolment_with(jwt_for(state)), Portal(no_portal))
    with pytest.raises(RenewalError):
        access.keep(jwt_for(other))
    assert state.bus_jwt() == ""


def test_renewal_is_due_after_a_third(state: NodeState) -> None:
    assert renewal_at(check_jwt(jwt_for(state, now=1000, life_s=3000), state.identity())) == 2000


Answer = Callable[[], requests.Renewed | requests.RenewalRefused]


async def registry(bus: Bus, answer: Answer) -> list[str]:
    """Answers renewals; who asked."""
    asked: list[str] = []

    async def handle(message: Message) -> None:
        asked.append(message.subject)
        await bus.publish(message.reply, encode(answer()))

    await bus.subscribe(subjects.RENEW, handle)
    return asked


async def running(renewer: Renewer, until: Callable[[], bool]) -> None:
    stop = asyncio.Event()
    task = asyncio.create_task(renewer.run(stop))
    async with asyncio.timeout(5):
        while not until():  # noqa: ASYNC110  (several things are waited for)
            await asyncio.sleep(0.01)
    stop.set()
    await task


Made = tuple[BusPass, Renewer, MemoryNats]


@pytest.fixture
def make(state: NodeState) -> Callable[[str], Awaitable[Made]]:
    async def made(text: str) -> Made:
        nats = MemoryNats()
        access = BusPass(state, enrolment_with(text), Portal(no_portal))
        return access, Renewer(nats.connect("reply.site-a"), access), nats

    return made


async def test_over_the_bus_it_is_renewed_in_time_and_by_nobody_but_the_node(
    state: NodeState, make: Callable[[str], Awaitable[Made]]
) -> None:
    access, renewer, nats = await make(jwt_for(state, life_s=2, now=time.time() - 1))
    fresh = jwt_for(state)
    asked = await registry(nats.connect("registry"), lambda: requests.Renewed(jwt=fresh))

    await running(renewer, lambda: access.text == fresh)
    await asyncio.sleep(0.1)

    assert asked == [f"req.registry.renew.{SITE.node_id}"]


async def test_a_refusal_is_asked_again_later(
    state: NodeState, make: Callable[[str], Awaitable[Made]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "RETRY", Backoff(0.01, 0.02))
    access, renewer, nats = await make(jwt_for(state, life_s=2, now=time.time() - 1))
    fresh = jwt_for(state)
    refused = requests.RenewalRefused(code="unavailable", detail="no database")
    said: list[requests.Renewed | requests.RenewalRefused] = [refused, refused]
    answers = iter([*said, requests.Renewed(jwt="junk"), requests.Renewed(jwt=fresh)])
    asked = await registry(nats.connect("registry"), lambda: next(answers))

    await running(renewer, lambda: access.text == fresh)

    assert len(asked) == 4


async def test_a_wrong_clock_does_not_make_a_node_ask_without_end(
    state: NodeState, make: Callable[[str], Awaitable[Made]]
) -> None:
    access, renewer, nats = await make(jwt_for(state, life_s=20, now=time.time() - 1000))
    asked = await registry(
        nats.connect("registry"), lambda: requests.Renewed(jwt=jwt_for(state, life_s=20, now=time.time() - 1000))
    )
    await running(renewer, lambda: len(asked) == 1)
    stop = asyncio.Event()
    task = asyncio.create_task(renewer.run(stop))
    await asyncio.sleep(0.3)
    stop.set()
    await task
    assert len(asked) == 1
    assert access.text
