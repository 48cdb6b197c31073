import asyncio
import random

import pytest

from kakuremichi.bus.memory import MemoryBus, MemoryNats
from kakuremichi.bus.port import BusError, BusTimeoutError, BusUnavailableError, Message
from kakuremichi.bus.topology import AUDIT, FEED

FEED_BLUE = "feed.pool.blue"


async def listening(nats: MemoryNats, subject: str = FEED_BLUE) -> tuple[MemoryBus, list[bytes]]:
    heard: list[bytes] = []
    bus = nats.connect("reply.gw-1")

    async def hear(message: Message) -> None:
        heard.append(message.data)

    await bus.subscribe(subject, hear)
    return bus, heard


async def send(nats: MemoryNats, *data: bytes) -> None:
    relay = nats.connect("registry")
    for each in data:
        await relay.publish(FEED_BLUE, each)
    await nats.idle()


async def test_messages_can_be_lost_and_repeated_on_demand() -> None:
    nats = MemoryNats()
    _, heard = await listening(nats)
    nats.drop_next("feed.>")
    nats.repeat_next(FEED_BLUE)

    await send(nats, b"1", b"2", b"3")

    assert heard == [b"2", b"2", b"3"]
    assert [message.data for message in nats.sent_to("feed.*.*")] == [b"1", b"2", b"3"]


async def test_messages_can_be_held_and_released_in_any_order() -> None:
    nats = MemoryNats()
    _, heard = await listening(nats)
    nats.hold(FEED_BLUE)

    await send(nats, b"1", b"2", b"3")
    assert heard == []
    nats.release(FEED_BLUE, reversed)
    await nats.idle()

    assert heard == [b"3", b"2", b"1"]
    nats.hold(FEED_BLUE)
    await send(nats, *(b"%d" % n for n in range(9)))
    nats.release(FEED_BLUE, lambda messages: random.Random(1).sample(messages, 9))
    await nats.idle()
    assert sorted(heard[3:]) == [b"%d" % n for n in range(9)]


async def test_what_is_sent_while_disconnected_is_lost_and_never_late() -> None:
    nats = MemoryNats()
    bus, heard = await listening(nats)
    generations: list[int] = []
    bus.on_connected(generations.append)

    bus.disconnect()
    await send(nats, b"lost")
    with pytest.raises(BusUnavailableError):
        await bus.publish("report.gw-1", b"")
    bus.reconnect()
    await bus.wait_connected(1)
    await send(nats, b"heard")

    assert heard == [b"heard"]
    assert (generations, bus.generation) == ([2], 2)


async def test_a_disconnection_tells_those_who_wait() -> None:
    nats = MemoryNats()
    silent, _ = await listening(nats, "req.registry.*.*")
    gateway = nats.connect("reply.gw-2")
    asking = asyncio.create_task(gateway.request("req.registry.snapshot.gw-2", b"", timeout_s=60))
    nats.streams["FEED"].leaderless = True
    ack = await gateway.store(FEED_BLUE, b"x")
    await asyncio.sleep(0)

    gateway.disconnect()

    with pytest.raises(BusTimeoutError, match="the connection broke"):
        await asking
    with pytest.raises(BusTimeoutError, match="the connection broke"):
        await ack
    assert silent.generation == 1


async def test_a_lost_ack_is_a_timeout_and_the_message_is_there() -> None:
    nats = MemoryNats()
    relay = nats.connect("registry", store_timeout_s=0.01)
    nats.lose_acks(1)

    with pytest.raises(BusTimeoutError, match=r"no ack within 0\.01 s"):
        await (await relay.store(FEED_BLUE, b"1", headers={"Nats-Msg-Id": "log:1"}))
    again = await (await relay.store(FEED_BLUE, b"1", headers={"Nats-Msg-Id": "log:1"}))

    assert (again.seq, again.duplicate) == (1, True)


async def test_a_stream_without_a_leader_stores_nothing_while_core_delivery_goes_on() -> None:
    nats = MemoryNats()
    _, heard = await listening(nats)
    relay = nats.connect("registry", store_timeout_s=0.01)
    nats.streams["FEED"].leaderless = True

    with pytest.raises(BusTimeoutError):
        await (await relay.store(FEED_BLUE, b"1"))
    with pytest.raises(BusError, match="no leader"):
        await relay.stream_state("FEED")
    with pytest.raises(BusError, match="no leader"):
        await relay.last_stored("FEED", FEED_BLUE)

    assert heard == [b"1"]
    assert nats.streams["FEED"].last_seq == 0


async def test_a_stream_that_was_made_anew_can_be_told() -> None:
    nats = MemoryNats()
    relay = nats.connect("registry")
    await (await relay.store(FEED_BLUE, b"1", headers={"Nats-Msg-Id": "log:1"}))
    before = await relay.stream_state("FEED")
    nats.recreate("FEED")
    after = await relay.stream_state("FEED")

    assert (before.last_seq, after.last_seq) == (1, 0)
    assert before.created != after.created


async def test_after_the_duplicate_window_a_repeat_is_stored_again() -> None:
    nats = MemoryNats()
    relay = nats.connect("registry")
    for _ in range(2):
        await (await relay.store(FEED_BLUE, b"1", headers={"Nats-Msg-Id": "log:1"}))
        nats.streams["FEED"].forget_ids()

    assert (await relay.stream_state("FEED")).messages == 2


async def test_a_full_feed_drops_the_oldest_and_a_full_audit_refuses_the_newest() -> None:
    nats = MemoryNats([FEED.sized(100), AUDIT.sized(100)])
    relay = nats.connect("registry")
    for number in range(3):
        await (await relay.store(FEED_BLUE, bytes(40)))
        if number < 2:
            await (await relay.store("audit.node", bytes(40)))
    with pytest.raises(BusError, match=r"audit\.node: maximum bytes exceeded"):
        await (await relay.store("audit.node", bytes(40)))

    assert (await relay.stream_state("FEED")).first_seq == 2
    assert (await relay.stream_state("AUDIT")).first_seq == 1
    with pytest.raises(BusError, match="stream OTHER: stream not found"):
        await relay.stream_state("OTHER")


async def test_a_slow_handler_overflows_like_the_real_one() -> None:
    nats = MemoryNats()
    bus = nats.connect("reply.gw-1", queue_limit=2)
    told: list[str] = []
    bus.on_overflow(told.append)

    async def stuck(_: Message) -> None:
        await asyncio.Event().wait()

    await bus.subscribe(FEED_BLUE, stuck)
    relay = nats.connect("registry")
    for number in range(5):
        await relay.publish(FEED_BLUE, b"%d" % number)

    assert bus.counts["overflowed"] == 3
    assert told == [FEED_BLUE]
