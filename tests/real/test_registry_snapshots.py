"""Snapshots and reports: pages of different moments converge, and nobody reads what is not for it."""

import asyncio
import random
from dataclasses import dataclass

import pytest

from kakuremichi.bus.memory import MemoryNats
from kakuremichi.bus.port import Message
from kakuremichi.model.ids import LogId, NodeId, ServiceId
from kakuremichi.reconcile.follow import Verdict, judge_item
from kakuremichi.reconcile.holding import Holding
from kakuremichi.reconcile.verify import OpenedItem, Verifier
from kakuremichi.wire import requests, subjects
from kakuremichi.wire.codec import MAX_MESSAGE_BYTES, decode, decode_any, encode
from kakuremichi.wire.commands import ListNodes, Nodes, RemoveNode, UnpublishService, Written
from kakuremichi.wire.requests import SnapshotPage, SnapshotRefused, SnapshotRequest
from support.real_registry import POOL, Enrollee, World, http, tcp

FEED = subjects.pool_feed(POOL)


async def page(nats: MemoryNats, node: str, request: SnapshotRequest) -> SnapshotPage | SnapshotRefused:
    bus = nats.connect(subjects.reply_prefix(NodeId(node)))
    answer = await bus.request(subjects.snapshot(NodeId(node)), encode(request), timeout_s=5)
    assert len(answer.data) <= MAX_MESSAGE_BYTES
    got: SnapshotPage | SnapshotRefused = decode_any(answer.data, SnapshotPage | SnapshotRefused, name="page")
    return got


@dataclass
class Writer:
    """Publishes, changes and withdraws services of a small set, by chance."""

    world: World
    chance: random.Random

    async def write(self, times: int) -> None:
        for _ in range(times):
            name = f"s{self.chance.randrange(20):02}"
            if self.chance.random() < 0.3:
                await self.world.ask(UnpublishService(actor="admin", service_id=ServiceId(name)))
                continue
            answer = await self.world.ask(http(name, f"{name}-{self.chance.randrange(3)}.example.com"))
            assert isinstance(answer, Written), answer


async def follow(holding: Holding, queued: "asyncio.Queue[bytes]", verifier: Verifier, until: int) -> None:
    """Apply what was queued up to the sequence `until`; the queue began before the snapshot, so there is no gap."""
    while holding.cursor is None or holding.cursor.feed_seq < until:
        opened = verifier.item(await queued.get())
        assert holding.cursor is not None
        verdict = judge_item(holding.cursor, opened.item)
        assert verdict in (Verdict.APPLY, Verdict.DROP)
        if verdict is Verdict.APPLY:
            holding.apply(opened)


@pytest.mark.parametrize("seed", range(6))
async def test_pages_of_different_moments_converge_with_concurrent_writes(
    registry_world: World, nats: MemoryNats, seed: int
) -> None:
    """A follower as a node is one: it subscribes, asks page after page between writes, then takes what was queued."""
    world, writer = registry_world, Writer(registry_world, random.Random(seed))
    await world.enrol("site-a")
    await world.enrol("gw1", "gateway")
    queued: asyncio.Queue[bytes] = asyncio.Queue()

    async def on_item(message: Message) -> None:
        queued.put_nowait(message.data)

    await writer.write(30)
    await nats.connect("reply.gw1").subscribe(FEED, on_item)
    verifier = world.verifier()
    items: list[OpenedItem] = []
    pages = [await page(nats, "gw1", SnapshotRequest(feed=FEED, limit_bytes=1024))]
    while True:
        got = pages[-1]
        assert isinstance(got, SnapshotPage)
        items += [verifier.signed_item(signed) for signed in got.items]
        await writer.write(writer.chance.randrange(4))
        if not got.next_after:
            break
        pages.append(await page(nats, "gw1", SnapshotRequest(feed=FEED, after=got.next_after, limit_bytes=1024)))
    await writer.write(5)

    assert isinstance(pages[0], SnapshotPage)
    holding = Holding(FEED)
    holding.replace(verifier.head(pages[0].head), items, 0.0)
    holding.release()
    last = await world.database.fetch_one("select feed_seq, hash, sum::text from feed_head where feed = $1", FEED)
    assert last is not None
    async with asyncio.timeout(10):
        await follow(holding, queued, verifier, last["feed_seq"])
    assert holding.cursor is not None
    assert holding.cursor.hash == last["hash"]
    assert holding.total == int(last["sum"])


async def test_a_snapshot_of_an_empty_feed_stands_at_zero(registry_world: World, nats: MemoryNats) -> None:
    await registry_world.enrol("site-a")
    for feed in (subjects.fleet_feed(POOL), subjects.agent_feed(NodeId("site-a"))):
        got = await page(nats, "site-a", SnapshotRequest(feed=feed))
        assert isinstance(got, SnapshotPage)
        head = registry_world.verifier().head(got.head)
        assert (head.feed_seq, head.count, head.hash, head.sum) == (0, 0, bytes(32), bytes(32))
        assert (got.items, got.next_after) == ((), "")


async def test_a_node_reads_its_own_feeds_and_no_others(registry_world: World, nats: MemoryNats) -> None:
    await registry_world.enrol("site-a")
    await registry_world.enrol("site-b")
    await registry_world.enrol("gw1", "gateway")
    allowed = {
        "site-a": {subjects.fleet_feed(POOL), subjects.agent_feed(NodeId("site-a"))},
        "gw1": {FEED},
        "stranger": set(),
    }
    asked = {FEED, "feed.pool.other", "feed.fleet.main", "feed.agent.site-a", "feed.agent.site-b", "", "feed\0", ">"}
    for node, feeds in allowed.items():
        for feed in asked:
            got = await page(nats, node, SnapshotRequest(feed=feed))
            assert isinstance(got, SnapshotPage) == (feed in feeds), (node, feed)


async def test_a_removed_node_gets_no_snapshot(registry_world: World, nats: MemoryNats) -> None:
    await registry_world.enrol("gw1", "gateway")
    assert isinstance(await page(nats, "gw1", SnapshotRequest(feed=FEED)), SnapshotPage)
    await registry_world.ask(RemoveNode(actor="admin", node_id=NodeId("gw1"), role="gateway"))
    got = await page(nats, "gw1", SnapshotRequest(feed=FEED))
    assert isinstance(got, SnapshotRefused)
    assert got.code == "unknown-node"


def report(node: Enrollee, **fields: object) -> bytes:
    known: dict[str, object] = {
        "node_id": node.node_id, "boot_id": bytes(16), "version": "0.1.0", "tags": ("route.v1",), "cursors": (),
    }  # fmt: skip
    return encode(requests.Report(**{**known, **fields}))  # type: ignore[arg-type]


async def send_report(nats: MemoryNats, node: Enrollee, data: bytes) -> requests.ReportAnswer:
    bus = nats.connect(subjects.reply_prefix(node.node_id))
    answer = await bus.request(subjects.report(node.node_id), data, timeout_s=5)
    return decode(answer.data, requests.ReportAnswer)


async def test_a_report_is_answered_with_the_heads_and_shown(registry_world: World, nats: MemoryNats) -> None:
    world = registry_world
    agent = await world.enrol("site-a")
    await world.ask(http("wiki"))
    await world.ask(tcp("ssh", 10022))
    error = requests.ItemError("feed.agent.site-a", "target/wiki-1", "not in the allow file")
    cursor = requests.Cursor("feed.agent.site-a", LogId("log"), 1)
    data = report(agent, cursors=(cursor,), errors=(error,), networks=("10.0.0.0/16", "junk"), warnings=("slow",))
    answer = await send_report(nats, agent, data)

    heads = {head.feed: head.feed_seq for head in map(world.verifier().head, answer.heads)}
    assert heads == {"feed.fleet.main": 0, "feed.agent.site-a": 2}
    listed = await world.ask(ListNodes(actor="admin", role="agent"))
    assert isinstance(listed, Nodes)
    view = listed.items[0]
    assert (view.state, view.behind, view.version) == ("live", 1, "0.1.0")
    assert view.errors == (("target/wiki-1", "not in the allow file"),)
    assert view.warnings[0] == "slow"
    assert view.warnings[1].startswith("subnet-conflict: 10.0.0.0/16")
    await world.database.execute("update report set at = at - interval '91 seconds'")
    listed = await world.ask(ListNodes(actor="admin", role="agent", node_id="site-a"))
    assert isinstance(listed, Nodes)
    assert listed.items[0].state == "offline"


async def test_reports_of_many_nodes_at_once_are_all_answered(registry_world: World, nats: MemoryNats) -> None:
    nodes = [await registry_world.enrol(f"site-{number}") for number in range(20)]
    answers = await asyncio.gather(*(send_report(nats, node, report(node)) for node in nodes))
    assert all(len(answer.heads) == 2 for answer in answers)
    rows = await registry_world.database.fetch("select node_id from report")
    assert len(rows) == 20


async def test_reports_of_one_node_at_once_are_all_answered_and_the_newest_is_kept(
    registry_world: World, nats: MemoryNats
) -> None:
    """A change and the proof of life may both make a node report in the same moment."""
    agent = await registry_world.enrol("site-a")
    reports = [report(agent, version=f"0.{number}") for number in range(3)]

    answers = await asyncio.gather(*(send_report(nats, agent, data) for data in reports))

    assert all(len(answer.heads) == 2 for answer in answers)
    rows = await registry_world.database.fetch("select report from report")
    assert [row[0] for row in rows] == reports[-1:]


async def test_reports_of_others_strangers_and_junk_are_not_kept(registry_world: World, nats: MemoryNats) -> None:
    agent = await registry_world.enrol("site-a")
    bus = nats.connect("reply.site-b")
    for data in (report(agent), b"\xc1", b"", b"\x98" + b"\xa1" * 8):
        await bus.publish(subjects.report(NodeId("site-b")), data, reply="reply.site-b.x")
    await bus.publish(subjects.report(NodeId("site-a")), report(agent), reply="feed.pool.main")
    await send_report(nats, agent, report(agent))
    assert [row[0] for row in await registry_world.database.fetch("select node_id from report")] == ["site-a"]
    assert registry_world.registry.reports.counts["bad_reply"] == 1


async def test_a_pool_whose_gateway_is_too_old_takes_no_routes(registry_world: World, nats: MemoryNats) -> None:
    world = registry_world
    await world.enrol("site-a")
    gateway = await world.enrol("gw1", "gateway")
    await send_report(nats, gateway, report(gateway, tags=("route.v0",)))
    problem = await world.ask(http("wiki"))
    assert getattr(problem, "holders", ()) == ("gw1",)
    await send_report(nats, gateway, report(gateway))
    assert isinstance(await world.ask(http("wiki")), Written)
