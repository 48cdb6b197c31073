"""The relay: in order, nothing lost, live even without a stream, whatever happens to acks and streams."""

import asyncio
from collections.abc import Callable

import asyncpg
import msgspec
import pytest

from kakuremichi.audit.chain import LogRow, verify_chain
from kakuremichi.bus.memory import MemoryNats
from kakuremichi.bus.port import Message
from kakuremichi.model.ids import NodeId
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import decode
from kakuremichi.wire.commands import RemoveNode, Written
from kakuremichi.wire.facts import LoggedFact
from kakuremichi.wire.records import FeedItem, Head
from kakuremichi.wire.signing import Signed
from kakuremichi_registry import maintenance, relay
from kakuremichi_registry.registry import Registry
from kakuremichi_registry.trust import Trust
from support.real_registry import World, http, running, tcp, throwaway_issuer, world


@pytest.fixture
def nats() -> MemoryNats:
    made = MemoryNats()
    connect = made.connect
    # Acks that never come cost a tenth of a second here, not two.
    made.connect = lambda name="test", **options: connect(name, **{"store_timeout_s": 0.1, **options})  # type: ignore[method-assign]
    return made


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not done():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.01)


def stored(nats: MemoryNats, stream: str = "FEED") -> list[Message]:
    messages = nats.streams[stream].stored
    return [messages[seq] for seq in sorted(messages)]


def items(messages: list[Message]) -> list[FeedItem]:
    return [decode(decode(message.data, Signed).body, FeedItem) for message in messages]


def feeds_are_dense_and_in_order(messages: list[Message]) -> bool:
    last: dict[str, int] = {}
    for item in items(messages):
        if item.feed_seq != last.get(item.feed, 0) + 1:
            return False
        last[item.feed] = item.feed_seq
    return True


async def publish(world: World, *numbers: int) -> None:
    for number in numbers:
        assert isinstance(await world.ask(tcp(f"s{number}", 10000 + number)), Written)


@pytest.fixture
async def heard(nats: MemoryNats) -> list[Message]:
    """What a live subscriber of the pool's feed gets."""
    messages: list[Message] = []

    async def hear(message: Message) -> None:
        messages.append(message)

    await nats.connect("reply.gw1").subscribe("feed.pool.*", hear)
    return messages


async def test_items_are_stored_in_the_order_of_commits_and_signed(
    registry_world: World, nats: MemoryNats, heard: list[Message]
) -> None:
    await registry_world.enrol("site-a")
    await publish(registry_world, *range(10))
    await until(lambda: len(stored(nats)) == 20)
    positions = [
        row["feed"] for row in await registry_world.database.fetch("select feed from feed_item order by item_seq")
    ]
    assert [message.subject for message in stored(nats)] == positions
    assert feeds_are_dense_and_in_order(stored(nats))
    verifier = registry_world.verifier()
    opened = [verifier.item(message.data) for message in heard]
    assert [each.item.feed_seq for each in opened] == list(range(1, 11))
    assert len({message.headers["Nats-Msg-Id"] for message in stored(nats)}) == 20


async def test_every_fact_is_in_the_audit_stream_and_the_chain_can_be_checked_from_it(
    registry_world: World, nats: MemoryNats
) -> None:
    await registry_world.enrol("site-a")
    await publish(registry_world, 1, 2)
    await until(lambda: len(stored(nats, "AUDIT")) == 4)
    rows = [msgspec.json.decode(message.data, type=LoggedFact) for message in stored(nats, "AUDIT")]
    last = verify_chain(
        LogRow(r.seq, bytes.fromhex(r.prev), bytes.fromhex(r.hash), r.topic, r.actor, r.at, r.fact) for r in rows
    )
    assert last[0] == 4


async def test_lost_acks_lose_nothing_and_store_nothing_twice(
    registry_world: World, nats: MemoryNats, heard: list[Message]
) -> None:
    await registry_world.enrol("site-a")
    for number in range(8):
        nats.lose_acks(1)
        await publish(registry_world, number)
        await asyncio.sleep(0.03)
    await until(lambda: registry_world.registry.feed_relay.stored == 16)
    assert feeds_are_dense_and_in_order(stored(nats))
    assert len(stored(nats)) == 16
    assert {item.feed_seq for item in items(heard)} == set(range(1, 9))
    assert registry_world.registry.feed_relay.seeks > 0


async def test_without_a_stream_leader_items_still_go_out_live(
    registry_world: World, nats: MemoryNats, heard: list[Message]
) -> None:
    await registry_world.enrol("site-a")
    await publish(registry_world, 0)
    await until(lambda: len(stored(nats)) == 2)
    nats.streams["FEED"].leaderless = True
    await publish(registry_world, *range(1, 6))
    await until(lambda: {item.feed_seq for item in items(heard)} == set(range(1, 7)))
    assert len(stored(nats)) == 2
    nats.streams["FEED"].leaderless = False
    await until(lambda: len(stored(nats)) == 12)
    assert feeds_are_dense_and_in_order(stored(nats))


async def test_a_stream_made_anew_is_filled_again(registry_world: World, nats: MemoryNats) -> None:
    await registry_world.enrol("site-a")
    await publish(registry_world, 0, 1, 2)
    await until(lambda: len(stored(nats)) == 6)
    nats.recreate("FEED")
    await publish(registry_world, 3)
    await until(lambda: len(stored(nats)) == 8)
    assert feeds_are_dense_and_in_order(stored(nats))


async def test_what_was_written_without_a_bus_is_relayed_when_it_is_back(
    registry_world: World, nats: MemoryNats
) -> None:
    await registry_world.enrol("site-a")
    bus = registry_world.registry._bus
    bus.disconnect()  # type: ignore[attr-defined]
    answer = await registry_world.registry.commands.answer("", tcp("s1", 10001))
    assert isinstance(answer, Written)
    await asyncio.sleep(0.1)
    assert stored(nats) == []
    bus.reconnect()  # type: ignore[attr-defined]
    await until(lambda: len(stored(nats)) == 2)


async def test_a_relay_that_starts_anew_goes_on_after_the_newest_stored_row(
    dsn: str, trust: Trust, nats: MemoryNats
) -> None:
    async with world(dsn, trust, nats.connect("registry"), nats.connect("portal")) as first:
        await first.enrol("site-a")
        await publish(first, 0, 1)
        await until(lambda: len(stored(nats)) == 4)
    nats.streams["FEED"].forget_ids()
    sent = len(nats.sent_to("feed.pool.main"))
    async with world(dsn, trust, nats.connect("registry"), nats.connect("portal")) as second:
        await publish(second, 2)
        await until(lambda: len(stored(nats)) == 6)
    assert feeds_are_dense_and_in_order(stored(nats))
    assert len(nats.sent_to("feed.pool.main")) == sent + 1


async def test_of_two_registries_one_relays_and_the_other_takes_over(dsn: str, trust: Trust, nats: MemoryNats) -> None:
    async with world(dsn, trust, nats.connect("registry"), nats.connect("portal")) as first:
        bus = nats.connect("registry")
        second = Registry(bus, first.database, trust, throwaway_issuer(), bus)
        await second.listen()
        async with running(second):
            await first.enrol("site-a")
            await publish(first, 0, 1)
            await until(lambda: len(stored(nats)) == 4)
            leaders = [r for r in (first.registry, second) if r.leadership.leading.is_set()]
            assert len(leaders) == 1
            await _cut_leader(dsn)
            await publish(first, 2, 3)
            await until(lambda: len(stored(nats)) == 8)
    assert feeds_are_dense_and_in_order(stored(nats))


async def _cut_leader(dsn: str) -> None:
    """End the session that holds the relay's lock, as a restart of the server would."""
    admin = await asyncpg.connect(dsn)
    await admin.execute(
        "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and pid <> pg_backend_pid()"
        " and database = (select oid from pg_database where datname = current_database())"
    )
    await admin.close()


async def test_two_relays_at_the_same_time_are_harmless(dsn: str, trust: Trust, nats: MemoryNats) -> None:
    async with world(dsn, trust, nats.connect("registry"), nats.connect("portal")) as first:
        await first.enrol("site-a")
        bus = nats.connect("registry")
        second = Registry(bus, first.database, trust, throwaway_issuer(), bus)
        second.feed_relay._leading.set()  # believes that it leads
        stop = asyncio.Event()
        other = asyncio.create_task(second.feed_relay.run(stop))
        await asyncio.gather(*(publish(first, number) for number in range(30)))
        await until(lambda: len(stored(nats)) == 60)
        stop.set()
        await other
    assert feeds_are_dense_and_in_order(stored(nats))


async def test_beacons_are_the_signed_heads_of_the_shared_feeds(registry_world: World, nats: MemoryNats) -> None:
    await registry_world.enrol("site-a")
    await registry_world.ask(http("wiki"))
    await registry_world.registry.beacons.send()
    verifier = registry_world.verifier()
    heads: dict[str, Head] = {
        message.subject: verifier.head_bytes(message.data) for message in nats.sent_to("beacon.*.*")
    }
    assert {subject: head.feed_seq for subject, head in heads.items()} == {
        subjects.beacon("feed.pool.main"): 1,
        subjects.beacon("feed.fleet.main"): 0,
    }


async def test_old_items_may_be_cleared_away_once_they_are_stored(
    registry_world: World, nats: MemoryNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SAVE_EVERY_S", 0.5)
    monkeypatch.setattr(maintenance, "STATEMENTS", tuple(maintenance.statements(kept_items=1)))
    await registry_world.enrol("site-a")
    await publish(registry_world, 0, 1)
    await until(lambda: len(stored(nats)) == 4)
    await asyncio.sleep(1.2)  # the relay looks again every second, and keeps its place then
    await registry_world.registry.maintenance.once()
    assert len(await registry_world.database.fetch("select from feed_item")) == 1
    assert isinstance(
        await registry_world.ask(RemoveNode(actor="admin", node_id=NodeId("site-a"), role="agent", cascade=True)),
        Written,
    )
    await until(lambda: len(stored(nats)) == 8)
    assert feeds_are_dense_and_in_order(stored(nats))
