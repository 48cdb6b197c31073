"""The log and the feeds: dense, chained, nothing lost, whoever writes at the same time."""

import asyncio
import hashlib

import msgspec

from kakuremichi.audit.chain import ChainError, LogRow, verify_chain
from kakuremichi.model.ids import ServiceId
from kakuremichi.wire import facts
from kakuremichi.wire.codec import decode
from kakuremichi.wire.commands import Problem, UnpublishService, Written
from kakuremichi.wire.records import FeedItem, decode_record
from kakuremichi_registry.store.entries import text_of
from support.real_registry import World, http, tcp

WRITERS = 16
WRITES = 500
MODULUS = 2**256


async def log_rows(world: World) -> list[LogRow]:
    rows = await world.database.fetch("select * from event_log order by seq")
    return [LogRow(r["seq"], r["prev"], r["hash"], r["topic"], r["actor"], text_of(r["at"]), r["fact"]) for r in rows]


async def test_500_writes_of_16_writers_leave_a_dense_chain_with_nothing_lost(registry_world: World) -> None:
    world = registry_world
    await world.enrol("gw1", "gateway")
    await world.enrol("site-a")
    answers: list[Written] = []

    async def writer(number: int) -> None:
        for step in range(number, WRITES, WRITERS):
            answer = await world.ask(tcp(f"svc-{step}", 10000 + step))
            assert isinstance(answer, Written), answer
            answers.append(answer)

    await asyncio.gather(*(writer(number) for number in range(WRITERS)))

    rows = await log_rows(world)
    verify_chain(rows)
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    assert sorted(answer.seq for answer in answers) == [r.seq for r in rows if r.topic == "service-published"]
    assert len(answers) == WRITES
    ports = [
        target.agent_port
        for row in rows
        if row.topic == "service-published"
        for target in msgspec.json.decode(row.fact, type=facts.ServicePublished).targets
    ]
    assert len(set(ports)) == WRITES


async def test_every_feed_is_dense_chained_and_its_sum_is_that_of_its_live_items(registry_world: World) -> None:
    world = registry_world
    await world.enrol("site-a")
    await world.enrol("site-b")
    for step in range(12):
        agent = "site-a" if step % 3 else "site-b"
        assert isinstance(await world.ask(http(f"s{step % 5}", f"h{step}.example.com", agent=agent)), Written)
    assert isinstance(await world.ask(UnpublishService(actor="admin", service_id=ServiceId("s1"))), Written)

    heads = await world.database.fetch("select feed, feed_seq, hash, count, sum::text from feed_head")
    assert {head["feed"] for head in heads} >= {"feed.pool.main", "feed.agent.site-a", "feed.agent.site-b"}
    for head in heads:
        items = await world.database.fetch("select * from feed_item where feed = $1 order by feed_seq", head["feed"])
        live: dict[str, bytes] = {}
        previous = bytes(32)
        for number, row in enumerate(items, 1):
            item = decode(row["body"], FeedItem)
            assert (item.feed, item.feed_seq, item.prev_hash) == (head["feed"], number, previous)
            previous = hashlib.sha256(row["body"]).digest()
            assert row["hash"] == previous
            decode_record(bytes(item.record))
            live.pop(row["path"], None)
            if not row["gone"]:
                live[row["path"]] = previous
        total = sum(int.from_bytes(digest, "big") for digest in live.values()) % MODULUS
        assert (head["feed_seq"], head["hash"], head["count"]) == (len(items), previous, len(live))
        assert int(head["sum"]) == total


async def test_the_bytes_that_sql_builds_are_those_of_the_encoder(registry_world: World) -> None:
    """Equal but for feed_seq, which SQL always writes in eight bytes: MessagePack allows both."""
    world = registry_world
    await world.enrol("site-a")
    await world.ask(http("wiki"))
    row = await world.database.fetch_one("select * from feed_item where feed = 'feed.pool.main'")
    assert row is not None
    item = decode(row["body"], FeedItem)
    again = msgspec.msgpack.encode(item)
    small, large = bytes([item.feed_seq]), b"\xcf" + item.feed_seq.to_bytes(8, "big")
    assert row["body"] == again.replace(b"feed.pool.main" + small, b"feed.pool.main" + large, 1)


async def test_what_is_live_already_is_not_said_again(registry_world: World) -> None:
    world = registry_world
    await world.enrol("site-a")
    first = await world.ask(http("wiki"))
    again = await world.ask(http("wiki"))
    assert isinstance(first, Written)
    assert isinstance(again, Written)
    assert not again.changed
    assert (again.seq, again.positions) == (first.seq, first.positions)
    moved = await world.ask(msgspec.structs.replace(http("wiki"), host="docs.example.com"))
    assert isinstance(moved, Written)
    seqs = {position.feed: position.feed_seq for position in moved.positions}
    assert seqs == {"feed.pool.main": 2, "feed.agent.site-a": 1}, "the target did not change, so its feed did not"


async def test_a_changed_row_breaks_the_chain(registry_world: World) -> None:
    world = registry_world
    await world.enrol("site-a")
    rows = await log_rows(world)
    forged = [row if row.seq != 2 else LogRow(*row[:3], row.topic, "somebody-else", *row[5:]) for row in rows]
    for broken in (forged, rows[:1] + rows[2:] if len(rows) > 2 else rows[1:]):
        try:
            verify_chain(broken)
        except ChainError:
            continue
        raise AssertionError("the chain holds")


async def test_a_refusal_writes_nothing_into_the_log_but_is_kept_beside_it(registry_world: World) -> None:
    world = registry_world
    await world.enrol("site-a")
    before = len(await log_rows(world))
    assert isinstance(await world.ask(http("wiki", "no-dots")), Problem)
    assert len(await log_rows(world)) == before
    async with asyncio.timeout(5):
        while not await world.database.fetch(  # noqa: ASYNC110  # a row has no event
            "select from access_log where code = 'invalid-field'"
        ):
            await asyncio.sleep(0.05)
