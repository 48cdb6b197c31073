"""What every bus promises: one suite on the fake in memory and on a real nats-server with our configuration."""

import asyncio

import pytest

from contract.buses import Seen, World
from kakuremichi.bus import jetstream
from kakuremichi.bus.jetstream import StreamRefusedError
from kakuremichi.bus.port import Ack, Bus, BusError, BusTimeoutError, BusUnavailableError, Message

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def echo_server(bus: Bus, subject: str, tag: bytes = b"") -> list[Message]:
    asked: list[Message] = []

    async def handle(message: Message) -> None:
        asked.append(message)
        await bus.publish(message.reply, tag + message.data)

    await bus.subscribe(subject, handle, queue="registry")
    return asked


async def test_messages_arrive_in_order_with_their_headers(world: World) -> None:
    registry, gateway = await world.bus("registry"), await world.bus("gateway", "gw-1")
    seen = Seen()
    await gateway.subscribe("feed.pool.blue", seen)

    for number in range(100):
        await registry.publish("feed.pool.blue", b"%d" % number, headers={"Nats-Msg-Id": f"log:{number}"})
    await seen.wait_for(100)

    assert seen.data == [b"%d" % number for number in range(100)]
    assert [message.headers["Nats-Msg-Id"] for message in seen.messages] == [f"log:{number}" for number in range(100)]
    assert {message.subject for message in seen.messages} == {"feed.pool.blue"}


async def test_a_subscription_handles_as_many_at_once_as_it_is_told(world: World) -> None:
    registry, portal = await world.bus("registry"), await world.bus("portal")
    seen, release = Seen(), asyncio.Event()

    async def handle(message: Message) -> None:
        await seen(message)
        await release.wait()
        await registry.publish(message.reply, message.data)

    await registry.subscribe("cp.registry.command", handle, queue="registry", at_once=3)
    asked = [
        asyncio.create_task(portal.request("cp.registry.command", b"%d" % number, timeout_s=5)) for number in range(5)
    ]
    await seen.wait_for(3)
    in_hand = list(seen.data)
    release.set()

    assert [answer.data for answer in await asyncio.gather(*asked)] == [b"0", b"1", b"2", b"3", b"4"]
    assert in_hand == [b"0", b"1", b"2"]


async def test_who_unsubscribes_waits_for_all_that_are_in_hand(world: World) -> None:
    registry, portal = await world.bus("registry"), await world.bus("portal")
    seen, release, finished = Seen(), asyncio.Event(), Seen()

    async def handle(message: Message) -> None:
        await seen(message)
        await release.wait()
        await finished(message)

    subscription = await registry.subscribe("cp.registry.command", handle, queue="registry", at_once=4)
    for number in range(2):
        await portal.publish("cp.registry.command", b"%d" % number)
    await seen.wait_for(2)
    leaving = asyncio.create_task(subscription.unsubscribe())
    asyncio.get_running_loop().call_later(0.05, release.set)
    await leaving

    assert finished.data == [b"0", b"1"]


async def test_a_subscription_hears_its_pattern_and_nothing_else(world: World) -> None:
    registry, auditor = await world.bus("registry"), await world.bus("auditor")
    seen = Seen()
    await auditor.subscribe("audit.*", seen)

    await registry.publish("feed.fleet.blue", b"not for auditors")
    await registry.publish("audit.node", b"first")
    await registry.publish("audit.service", b"second")
    await seen.wait_for(2)

    assert seen.data == [b"first", b"second"]


async def test_a_request_is_answered_to_the_asker(world: World) -> None:
    registry, gateway = await world.bus("registry"), await world.bus("gateway", "gw-1")
    asked = await echo_server(registry, "req.registry.*.*")

    answer = await gateway.request("req.registry.snapshot.gw-1", b"page 1", timeout_s=5)

    assert answer.data == b"page 1"
    assert asked[0].subject == "req.registry.snapshot.gw-1"
    assert asked[0].reply.startswith("reply.gw-1.")


async def test_many_requests_at_once_get_each_their_own_answer(world: World) -> None:
    registry, gateway = await world.bus("registry"), await world.bus("gateway", "gw-1")
    await echo_server(registry, "req.registry.*.*")

    asking = [gateway.request("req.registry.snapshot.gw-1", b"%d" % n, timeout_s=5) for n in range(200)]
    answers = await asyncio.gather(*asking)

    assert [answer.data for answer in answers] == [b"%d" % n for n in range(200)]


async def test_one_member_of_a_queue_group_handles_each_request(world: World) -> None:
    first, second = await world.bus("registry"), await world.bus("registry")
    gateway = await world.bus("gateway", "gw-1")
    asked_first, asked_second = (
        await echo_server(first, "req.registry.*.*"),
        await echo_server(second, "req.registry.*.*"),
    )

    for number in range(60):
        await gateway.request("req.registry.snapshot.gw-1", b"%d" % number, timeout_s=5)

    assert len(asked_first) + len(asked_second) == 60
    assert asked_first, "the other member got everything"
    assert asked_second, "one member got everything"


async def test_silence_is_a_timeout_and_an_empty_room_is_told_at_once(world: World) -> None:
    registry, gateway = await world.bus("registry"), await world.bus("gateway", "gw-1")

    with pytest.raises(BusUnavailableError, match=r"req\.registry\.renew\.gw-1: nobody listens there"):
        await gateway.request("req.registry.renew.gw-1", b"", timeout_s=5)

    await registry.subscribe("req.registry.*.*", Seen())
    with pytest.raises(BusTimeoutError, match=r"no answer within 0\.1 s"):
        await gateway.request("req.registry.renew.gw-1", b"", timeout_s=0.1)


async def test_a_handler_that_raises_costs_one_message(world: World) -> None:
    registry, gateway = await world.bus("registry"), await world.bus("gateway", "gw-1")
    seen = Seen()

    async def handle(message: Message) -> None:
        if message.data == b"bad":
            raise ValueError(message.data)
        await seen(message)

    await gateway.subscribe("feed.pool.blue", handle)
    for data in (b"one", b"bad", b"two"):
        await registry.publish("feed.pool.blue", data)
    await seen.wait_for(2)

    assert seen.data == [b"one", b"two"]


async def test_after_unsubscribe_nothing_comes(world: World) -> None:
    registry, gateway = await world.bus("registry"), await world.bus("gateway", "gw-1")
    left, stayed = Seen(), Seen()
    subscription = await gateway.subscribe("feed.pool.blue", left)
    await gateway.subscribe("feed.pool.blue", stayed)

    await subscription.unsubscribe()
    await registry.publish("feed.pool.blue", b"late")
    await stayed.wait_for(1)

    assert left.data == []


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "feed..blue",
        "feed.pool.*",
        "feed.pool.>",
        "feed.pool.blue green",
        "feed.pool.n1 0\r\n\r\nPUB admin.cmd 4\r\nEVIL\r\nPUB x",
        "feed.pool.bl\N{LATIN SMALL LETTER U WITH DIAERESIS}",
    ],
)
async def test_what_is_no_subject_is_never_sent(world: World, subject: str) -> None:
    registry = await world.bus("registry")

    with pytest.raises(BusError, match="subject"):
        await registry.publish(subject, b"x")
    with pytest.raises(BusError, match="subject"):
        await registry.request(subject, b"x", timeout_s=1)
    with pytest.raises(BusError, match="subject"):
        await registry.store(subject, b"x")
    if subject != "":
        with pytest.raises(BusError, match="subject"):
            await registry.publish("feed.pool.blue", b"x", reply=subject)


async def test_what_is_too_large_is_never_sent(world: World) -> None:
    registry, gateway = await world.bus("registry"), await world.bus("gateway", "gw-1")
    seen = Seen()
    await gateway.subscribe("feed.pool.blue", seen)

    with pytest.raises(BusError):
        await registry.publish("feed.pool.blue", bytes(65537))
    with pytest.raises(BusError):  # headers count
        await registry.publish("feed.pool.blue", bytes(65530), headers={"Nats-Msg-Id": "feed:1"})
    await registry.publish("feed.pool.blue", bytes(65000))
    await seen.wait_for(1)

    assert len(seen.messages[0].data) == 65000
    assert registry.generation == 1


async def test_a_window_of_256_is_stored_in_order(world: World) -> None:
    registry = await world.bus("registry")

    acks: list[Ack] = []
    for start in range(0, 1024, 256):
        window = [await registry.store("feed.pool.blue", b"%d" % n, headers=row(n)) for n in range(start, start + 256)]
        acks += await asyncio.gather(*window)

    assert [ack.seq for ack in acks] == list(range(1, 1025))
    assert not any(ack.duplicate for ack in acks)
    state = await registry.stream_state("FEED")
    assert (state.last_seq, state.messages) == (1024, 64)  # 64 of a subject are kept
    last = await registry.last_stored("FEED", "feed.pool.blue")
    assert last is not None
    assert (last.data, last.headers["Nats-Msg-Id"]) == (b"1023", "log:1023")


def row(number: int) -> dict[str, str]:
    return {jetstream.MESSAGE_ID: f"log:{number}", jetstream.EXPECTED_LAST_SEQUENCE: str(number)}


async def test_a_repeated_publish_is_stored_once_and_delivered_twice(world: World) -> None:
    registry, gateway = await world.bus("registry"), await world.bus("gateway", "gw-1")
    seen = Seen()
    await gateway.subscribe("feed.pool.blue", seen)

    first, second = [
        await (await registry.store("feed.pool.blue", b"item", headers={"Nats-Msg-Id": "log:1"})) for _ in range(2)
    ]
    await seen.wait_for(2)

    assert (first.seq, first.duplicate) == (1, False)
    assert (second.seq, second.duplicate) == (1, True)
    assert (await registry.stream_state("FEED")).messages == 1


async def test_a_row_out_of_turn_is_refused_with_its_code_though_delivered_live(world: World) -> None:
    registry, gateway = await world.bus("registry"), await world.bus("gateway", "gw-1")
    seen = Seen()
    await gateway.subscribe("feed.pool.blue", seen)

    early = await registry.store("feed.pool.blue", b"early", headers={jetstream.EXPECTED_LAST_SEQUENCE: "7"})
    with pytest.raises(StreamRefusedError, match=r"feed\.pool\.blue: wrong last sequence: 0") as caught:
        await early

    assert caught.value.code == jetstream.WRONG_LAST_SEQUENCE
    await seen.wait_for(1)
    assert (await registry.stream_state("FEED")).last_seq == 0


async def test_what_no_stream_takes_is_an_error_and_not_a_timeout(world: World) -> None:
    registry = await world.bus("registry")

    with pytest.raises(BusError, match=r"beacon\.pool\.blue: no stream stores this subject"):
        await (await registry.store("beacon.pool.blue", b"head"))


async def test_an_empty_stream_says_so(world: World) -> None:
    registry = await world.bus("registry")

    assert (await registry.stream_state("AUDIT")).messages == 0
    assert await registry.last_stored("AUDIT", "audit.node") is None


async def test_the_streams_keep_what_the_topology_gives_them(world: World) -> None:
    registry = await world.bus("registry")

    subjects = ["feed.pool.a", "feed.fleet.a", "feed.agent.a", "audit.node"]
    acks = [await (await registry.store(subject, b"x")) for subject in subjects]

    assert [ack.stream for ack in acks] == ["FEED", "FEED", "FEED", "AUDIT"]


async def test_a_trace_context_travels_with_the_message(world: World) -> None:
    registry, gateway = await world.bus("registry"), await world.bus("gateway", "gw-1")
    seen = Seen()
    await gateway.subscribe("feed.pool.blue", seen)

    await registry.publish("feed.pool.blue", b"x", headers={"traceparent": PARENT})
    await (await registry.store("feed.pool.blue", b"y", headers={"traceparent": PARENT}))
    await seen.wait_for(2)

    traces = [message.headers["traceparent"].split("-")[1] for message in seen.messages]
    assert traces == ["0af7651916cd43dd8448eb211c80319c"] * 2
    stored = await registry.last_stored("FEED", "feed.pool.blue")
    assert stored is not None
    assert stored.headers["traceparent"].split("-")[1] == traces[0]


async def test_a_closed_bus_refuses(world: World) -> None:
    gateway = await world.bus("gateway", "gw-1")

    await gateway.close()

    with pytest.raises(BusUnavailableError):
        await gateway.publish("report.gw-1", b"x")
    with pytest.raises(BusUnavailableError):
        await gateway.wait_connected(0.01)
