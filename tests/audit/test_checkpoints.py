"""Checkpoints of a real log: signed, continued, asked for by gateways and signed by them too."""

import asyncio
from pathlib import Path

import pytest

from kakuremichi.audit.merkle import root_of
from kakuremichi.audit.seals import checkpoint_of
from kakuremichi.bus.memory import MemoryNats
from kakuremichi.wire import signing, subjects
from kakuremichi.wire.checkpoints import CHECKPOINT, AskCheckpoint, Checkpoint, CheckpointRefused, NewestCheckpoint
from kakuremichi.wire.codec import decode_any, encode
from kakuremichi.wire.history import LogPage, ReadLog
from kakuremichi.wire.signing import Signed, verify_key
from kakuremichi_registry.checkpoints import Checkpoints
from kakuremichi_registry.store import checkpoints as store
from support.history import log_of
from support.real_registry import World, http
from support.witness import Gateway


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole runs of the tree are reached with a few rows."""
    monkeypatch.setattr(store, "RUN", 8)


async def grow(world: World, rows: int, *, begin: int = 0) -> None:
    for step in range(begin, begin + rows):
        await world.ask(http(f"s{step % 5}", f"h{step}.example.com"))


def read(world: World, signed: Signed) -> Checkpoint:
    return checkpoint_of(signed, world.trust.deployment, verify_key(world.trust.feed_key))


@pytest.fixture
async def gateway(registry_world: World, nats: MemoryNats, tmp_path: Path) -> Gateway:
    node = await registry_world.enrol("gw1", "gateway")
    await registry_world.enrol("site-a")
    return Gateway(node, nats.connect(subjects.reply_prefix(node.node_id)), tmp_path / "gw1")


async def test_each_checkpoint_is_the_root_over_all_rows(registry_world: World, gateway: Gateway) -> None:
    world = registry_world
    for step in range(6):
        await grow(world, 5, begin=step * 5)
        fresh = Checkpoints(world.database, world.trust) if step % 2 else world.registry.checkpoints
        size = await fresh.make()
        newest = await store.newest(world.database)
        assert newest is not None
        rows = await log_of(world.database, size)
        said = read(world, newest.signed)
        assert (said.size, said.root, said.hash) == (size, root_of(row.hash for row in rows), rows[-1].hash)
    assert await world.registry.checkpoints.make() == size, "nothing new, no new checkpoint"
    kept = await store.between(world.database, 0, size, 100)
    assert len(kept) == 6
    assert len(await store.runs(world.database)) == size // 8


async def test_a_gateway_signs_what_continues_and_its_signature_is_in_the_log_pages(
    registry_world: World, gateway: Gateway
) -> None:
    world = registry_world
    assert await gateway.witness.once() == 0, "there is none yet"
    for step in range(4):
        await grow(world, 7, begin=step * 7)
        size = await world.registry.checkpoints.make()
        assert await gateway.witness.once() == size
    assert gateway.warnings == {"log": ""}
    kept = await store.between(world.database, 0, size, 100)
    assert [len(each.witnesses) for each in kept] == [1, 1, 1, 1]
    answer = await world.portal.request(subjects.HISTORY, encode(ReadLog(actor="ann")), timeout_s=5)
    page = decode_any(answer.data, LogPage, name="page")
    assert [(each.size, len(each.witnesses)) for each in page.checkpoints] == [(each.size, 1) for each in kept]


async def test_the_loops_of_both_sides_find_each_other(registry_world: World, gateway: Gateway) -> None:
    world, stop, leading = registry_world, asyncio.Event(), asyncio.Event()
    leading.set()
    maker = Checkpoints(world.database, world.trust, every_s=0.05)
    loops = [asyncio.create_task(maker.run(stop, leading)), asyncio.create_task(gateway.witness.run(stop))]
    try:
        async with asyncio.timeout(20):
            while not await world.database.fetch("select from checkpoint_witness"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        stop.set()
        await asyncio.gather(*loops)


async def test_a_log_that_was_written_anew_is_told_and_not_signed(registry_world: World, gateway: Gateway) -> None:
    """Whoever has the database and the feed key can make every hash fit; not the one that a gateway has seen."""
    world = registry_world
    await grow(world, 9)
    seen = await world.registry.checkpoints.make()
    assert await gateway.witness.once() == seen
    await grow(world, 9, begin=9)
    world.folds = False
    await world.database.execute("update event_log set hash = sha256(hash) where seq = $1", seen - 2)
    await world.database.execute("truncate log_run")
    await Checkpoints(world.database, world.trust).make()
    assert await gateway.witness.once() == seen
    assert gateway.warnings["log"].startswith("log-fork: ")
    assert gateway.witness.evidence.exists()
    signed = await world.database.fetch("select size from checkpoint_witness")
    assert [row["size"] for row in signed] == [seen]


async def test_a_shorter_log_is_told(registry_world: World, gateway: Gateway) -> None:
    world = registry_world
    await grow(world, 9)
    await world.registry.checkpoints.make()
    seen = await gateway.witness.once()
    old = await store.newest(world.database)
    assert old is not None
    await world.database.execute("delete from checkpoint_witness")
    await world.database.execute("delete from checkpoint")
    said = read(world, old.signed)
    shorter = Checkpoint(log_id=said.log_id, size=3, root=said.root, hash=said.hash, at=said.at)
    forged = signing.sign(CHECKPOINT, world.trust.deployment, encode(shorter), world.trust.feed_key)
    await store.keep(world.database, 3, forged)
    assert await gateway.witness.once() == seen
    assert "shorter" in gateway.warnings["log"]


async def test_agents_and_strangers_are_no_witnesses(registry_world: World, nats: MemoryNats, gateway: Gateway) -> None:
    await registry_world.registry.checkpoints.make()
    for name in ("site-a", "nobody"):
        bus = nats.connect(f"reply.{name}")
        reply = await bus.request(f"req.registry.witness.{name}", encode(AskCheckpoint()), timeout_s=5)
        answer = decode_any(reply.data, NewestCheckpoint | CheckpointRefused, name="answer")
        assert isinstance(answer, CheckpointRefused)
        assert answer.code == "unknown-node"


async def test_a_signature_that_is_none_is_not_kept(registry_world: World, nats: MemoryNats, gateway: Gateway) -> None:
    size = await registry_world.registry.checkpoints.make()
    other = signing.sign("witness", registry_world.trust.deployment, b"something else", gateway.state.identity())
    asked = AskCheckpoint(log_id="x", size=size, signature=other.signatures[0])
    bus = nats.connect("reply.gw1")
    reply = await bus.request("req.registry.witness.gw1", encode(asked), timeout_s=5)
    assert isinstance(decode_any(reply.data, NewestCheckpoint | CheckpointRefused, name="answer"), NewestCheckpoint)
    assert await registry_world.database.fetch("select from checkpoint_witness") == []


async def test_of_days_long_past_the_last_checkpoint_stays(registry_world: World, gateway: Gateway) -> None:
    world = registry_world
    for step in range(6):
        await grow(world, 2, begin=step * 2)
        await world.registry.checkpoints.make()
        await gateway.witness.once()
    sizes = [each.size for each in await store.between(world.database, 0, 1000, 100)]
    long_ago = "update checkpoint set at = date_trunc('day', clock_timestamp()) - make_interval(days => $1, hours => 5)"
    for days, size in zip((90, 90, 90, 89, 40, 40), sizes, strict=True):
        await world.database.execute(f"{long_ago} where size = $2", days, size)
    await world.registry.maintenance.once()
    left = await store.between(world.database, 0, 1000, 100)
    assert [each.size for each in left] == [sizes[2], sizes[3], sizes[5]]
    assert all(each.witnesses for each in left)
