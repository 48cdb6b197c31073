from collections import Counter

import pytest
from msgspec import Struct

from kakuremichi.bus.memory import MemoryBus, MemoryNats
from kakuremichi.bus.port import BusTimeoutError
from kakuremichi.bus.serve import may_answer, serve
from kakuremichi.wire.codec import WireError, decode, encode


class Ask(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    number: int


class Told(Struct, frozen=True, array_like=True):
    text: str


async def decide(subject: str, ask: Ask) -> Told:
    return Told(f"{subject} {10 // ask.number}")


def refuse(error: WireError) -> Told:
    return Told(f"refused: {error}")


async def served(subject: str = "req.registry.snapshot.*") -> tuple[MemoryNats, MemoryBus, "Counter[str]"]:
    nats = MemoryNats()
    counts: Counter[str] = Counter()
    registry = nats.connect("registry")
    await serve(registry, subject, Ask, decide, queue="registry", refuse=refuse, counts=counts)
    return nats, nats.connect("reply.gw-1"), counts


async def test_a_request_is_decoded_decided_and_answered() -> None:
    _, gateway, counts = await served()

    answer = await gateway.request("req.registry.snapshot.gw-1", encode(Ask(5)), timeout_s=1)

    assert decode(answer.data, Told) == Told("req.registry.snapshot.gw-1 2")
    assert counts == {"answered": 1}


@pytest.mark.parametrize(
    "reply", ["feed.pool.blue", "reply.gw-2.x", "reply.gw-1", "reply.gw-10.x", "_INBOX.portal.x", "$JS.API.INFO"]
)
async def test_an_answer_is_never_aimed_at_others(reply: str) -> None:
    nats, gateway, counts = await served()

    await gateway.publish("req.registry.snapshot.gw-1", encode(Ask(5)), reply=reply)
    await nats.idle()

    assert counts == {"bad_reply": 1}
    assert nats.sent_to(reply) == []


async def test_a_request_without_an_inbox_is_not_decided() -> None:
    nats, gateway, counts = await served()

    await gateway.publish("req.registry.snapshot.gw-1", encode(Ask(5)))
    await nats.idle()

    assert counts == {"bad_reply": 1}


async def test_bytes_that_are_no_request_get_the_refusal() -> None:
    _, gateway, counts = await served()

    for junk in (b"", b"\xc1", encode(["a"]), encode([1, 2]), bytes(100)):
        answer = await gateway.request("req.registry.snapshot.gw-1", junk, timeout_s=1)
        assert decode(answer.data, Told).text.startswith("refused: Ask")

    assert counts == {"malformed": 5, "answered": 5}


class First(Struct, frozen=True, tag="first.v1"):
    number: int


class Second(Struct, frozen=True, tag="second.v1"):
    text: str


async def test_a_union_of_requests_is_told_apart_by_its_tags() -> None:
    nats = MemoryNats()

    async def tell(_: str, request: First | Second) -> Told:
        return Told(type(request).__name__)

    await serve(nats.connect("registry"), "cp.registry.command", First | Second, tell, queue="q", refuse=refuse)
    portal = nats.connect("portal")
    answers = [
        await portal.request("cp.registry.command", data, timeout_s=1)
        for data in (encode(First(1)), encode(Second("x")), b"junk")
    ]

    texts = [decode(answer.data, Told).text for answer in answers]
    assert texts[:2] == ["First", "Second"]
    assert texts[2].startswith("refused: cp.registry.command: ")


async def test_a_decision_that_raises_costs_one_answer() -> None:
    _, gateway, counts = await served()

    with pytest.raises(BusTimeoutError):
        await gateway.request("req.registry.snapshot.gw-1", encode(Ask(0)), timeout_s=0.05)
    await gateway.request("req.registry.snapshot.gw-1", encode(Ask(1)), timeout_s=1)

    assert counts == {"failed": 1, "answered": 1}


async def test_an_answer_that_cannot_be_sent_is_counted() -> None:
    nats = MemoryNats()
    counts: Counter[str] = Counter()
    registry, gateway = nats.connect("registry"), nats.connect("reply.gw-1")

    async def slow(subject: str, ask: Ask) -> Told:
        registry.disconnect()
        return await decide(subject, ask)

    await serve(registry, "req.registry.snapshot.*", Ask, slow, queue="registry", counts=counts)
    await gateway.publish("req.registry.snapshot.gw-1", encode(Ask(1)), reply="reply.gw-1.x.y")
    await nats.idle()

    assert counts == {"unsent": 1}


def test_inside_the_control_plane_answers_go_to_its_inboxes() -> None:
    assert may_answer("cp.registry.command", "_INBOX.portal.x.y")
    assert not may_answer("cp.registry.command", "feed.pool.blue")
    assert not may_answer("cp.registry.command", "reply.gw-1.x")
    assert may_answer("report.gw-1", "reply.gw-1.x.y")
    assert not may_answer("report.gw-1", "_INBOX.portal.x.y")
