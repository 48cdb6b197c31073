"""The log folds into the tables: after a life with everything that can happen to nodes and services, and after any."""

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from kakuremichi.audit.fold import fold
from kakuremichi.audit.rows import KEYS, NOT_FOLDED, lines, table_of
from kakuremichi.audit.state import State, digest, dump
from kakuremichi.model.ids import NodeId, ServiceId
from kakuremichi.model.keys import PrivateKey
from kakuremichi.model.options import Headers, Http, Limits, Options
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import decode_any, encode
from kakuremichi.wire.commands import (
    AnyCommand,
    AnyResult,
    Problem,
    ReleaseNode,
    RemoveNode,
    RevokeNode,
    RotateNode,
    UnpublishService,
    Written,
)
from kakuremichi.wire.history import (
    AnyHistoryRequest,
    AnyHistoryResult,
    DiffPage,
    Moment,
    ReadDiff,
    ReadState,
    StatePage,
)
from kakuremichi.wire.identity import Role
from kakuremichi.wire.key_requests import AcceptKey
from kakuremichi.wire.requests import KeyAccepted, KeyRefused
from kakuremichi_registry.history import History
from kakuremichi_registry.store import history, truth
from support.history import folds_into_its_tables, log_of
from support.real_registry import Enrollee, World, http, tcp


async def announce(world: World, node: Enrollee) -> KeyAccepted | KeyRefused:
    asked = encode(AcceptKey(announcement=node.announcement()))
    answer = await world.portal.request(subjects.KEY, asked, timeout_s=5)
    decided: KeyAccepted | KeyRefused = decode_any(answer.data, KeyAccepted | KeyRefused, name="answer")
    return decided


async def past(world: World, request: AnyHistoryRequest) -> AnyHistoryResult:
    answer = await world.portal.request(subjects.HISTORY, encode(request), timeout_s=20)
    found: AnyHistoryResult = decode_any(answer.data, AnyHistoryResult, name="answer")
    return found


async def done(world: World, command: AnyCommand) -> AnyResult:
    answer = await world.ask(command)
    assert not isinstance(answer, Problem), answer
    return answer


async def a_life(world: World) -> None:
    """Nodes come, announce, rotate, are copied, released, revoked and removed; services come, change and go."""
    gateways = [await world.enrol(name, "gateway") for name in ("gw1", "gw2")]
    agents = {
        name: await world.enrol(name, networks=("192.168.9.0/24", "192.168.7.0/24"))
        for name in ("site-a", "site-b", "site-c")
    }
    for node in (*gateways, *agents.values()):
        assert isinstance(await announce(world, node), KeyAccepted)
    options = Options(limits=Limits(rate=5), http=Http(request=Headers(set={"X-B": "1", "X-A": "2"})))
    await done(world, replace(http("wiki"), options=options))
    await done(world, http("wiki", "docs.example.com"))
    await done(world, http("wiki", "docs.example.com", agent="site-b"))
    await done(world, tcp("ssh", 10022, agent="site-c"))
    await done(world, tcp("game", 21000, 21010, agent="site-b", udp=True))
    await done(world, http("mail", agent="site-c"))
    await done(world, UnpublishService(actor="ann", service_id=ServiceId("mail")))
    await done(world, RotateNode(actor="ann", node_id=NodeId("site-a"), role="agent"))
    agents["site-a"].private = PrivateKey.generate()
    assert isinstance(await announce(world, agents["site-a"]), KeyAccepted)
    copy = replace_identity(agents["site-b"])
    assert isinstance(await announce(world, agents["site-b"]), KeyAccepted)
    copy.epoch = agents["site-b"].epoch
    assert isinstance(await announce(world, copy), KeyRefused), "a copy does not follow the chain"
    await done(world, ReleaseNode(actor="ann", node_id=NodeId("site-b"), role="agent"))
    await done(world, RevokeNode(actor="ann", node_id=NodeId("site-c"), role="agent"))
    await done(world, RemoveNode(actor="ann", node_id=NodeId("site-c"), role="agent"))
    await done(world, RemoveNode(actor="ann", node_id=NodeId("site-b"), role="agent", cascade=True))
    await done(world, RemoveNode(actor="ann", node_id=NodeId("gw2"), role="gateway"))
    again = await world.enrol("site-b")
    assert isinstance(await announce(world, again), KeyAccepted)
    await done(world, http("news", agent="site-a"))


def replace_identity(node: Enrollee) -> Enrollee:
    """What a copy of the disk has: the same identity, another key, no knowledge of what the node says next."""
    return Enrollee(node.enrolled, node.identity, epoch=node.epoch, boot_id=b"c" * 16)


async def test_a_life_with_everything_folds_into_the_tables(registry_world: World) -> None:
    await a_life(registry_world)
    state = await folds_into_its_tables(registry_world.database)
    said = {table_of(row) for row in state.rows()}
    assert said == {table_of(kind) for kind in KEYS} - {"node_renewal", "spent_serial"}, "each kind of row was there"


async def test_every_table_is_folded_or_has_a_reason_not_to_be(registry_world: World) -> None:
    rows = await registry_world.database.fetch(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')"
        " and not relispartition"
    )
    tables = {row["relname"] for row in rows}
    folded = {table_of(kind) for kind in KEYS}
    assert tables == folded | NOT_FOLDED.keys()
    assert not folded & NOT_FOLDED.keys()


class AnyLife:
    """Things that happen to five nodes and four services, drawn by a seed; what is refused changes nothing."""

    NAMES = ("site-a", "site-b", "site-c", "gw1", "gw2")

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.dice, self.nodes = world, random.Random(seed), dict[str, Enrollee]()
        self.acts = (self.enrol, self.enrol, self.announce, self.by_host, self.by_port, self.unpublish, self.rotate,
                     self.revoke, self.remove)  # fmt: skip

    async def step(self) -> None:
        name = self.dice.choice(self.NAMES)
        await self.dice.choice(self.acts)(NodeId(name), "gateway" if name.startswith("gw") else "agent")

    async def enrol(self, name: NodeId, role: Role) -> None:
        if name not in self.nodes:
            self.nodes[name] = await self.world.enrol(name, role)

    async def announce(self, name: NodeId, _role: Role) -> None:
        if name in self.nodes:
            await announce(self.world, self.nodes[name])

    async def by_host(self, name: NodeId, _role: Role) -> None:
        await self.world.ask(http(f"s{self.dice.randrange(4)}", f"h{self.dice.randrange(4)}.example.com", agent=name))

    async def by_port(self, name: NodeId, _role: Role) -> None:
        await self.world.ask(tcp(f"s{self.dice.randrange(4)}", 10000 + self.dice.randrange(6), agent=name))

    async def unpublish(self, _name: NodeId, _role: Role) -> None:
        await self.world.ask(UnpublishService(actor="ann", service_id=ServiceId(f"s{self.dice.randrange(4)}")))

    async def rotate(self, name: NodeId, role: Role) -> None:
        await self.world.ask(RotateNode(actor="ann", node_id=name, role=role))

    async def revoke(self, name: NodeId, role: Role) -> None:
        if isinstance(await self.world.ask(RevokeNode(actor="ann", node_id=name, role=role)), Written):
            await self.world.ask(RemoveNode(actor="ann", node_id=name, role=role))
            self.nodes.pop(name, None)

    async def remove(self, name: NodeId, role: Role) -> None:
        command = RemoveNode(actor="ann", node_id=name, role=role, cascade=self.dice.random() < 0.5)
        if isinstance(await self.world.ask(command), Written):
            self.nodes.pop(name, None)


@pytest.mark.parametrize("seed", range(4))
async def test_any_life_folds_into_the_tables(registry_world: World, seed: int) -> None:
    life = AnyLife(registry_world, seed)
    for _ in range(60):
        await life.step()
    await folds_into_its_tables(registry_world.database)
    at_once = [http(f"t{step}", agent=name) for step in range(12) for name in life.nodes]
    await asyncio.gather(*(registry_world.ask(command) for command in at_once))


async def test_the_registry_tells_the_state_of_any_row_and_any_moment(registry_world: World) -> None:
    world = registry_world
    await a_life(world)
    tables = await truth.read(world.database)
    rows = await log_of(world.database, tables.seq)
    for row in rows[:: len(rows) // 6]:
        expected = fold(State(log_id=tables.log_id), rows[: row.seq])
        page = await past(world, ReadState(actor="ann", moment=Moment(seq=row.seq)))
        assert isinstance(page, StatePage)
        assert page.lines == tuple(line.decode() for line in expected.lines())
        assert (page.place.seq, page.place.digest) == (row.seq, digest(expected.lines()))
        by_time = await past(world, ReadState(actor="ann", moment=Moment(at=row.at)))
        assert isinstance(by_time, StatePage)
        assert by_time.lines == page.lines
    now = await past(world, ReadState(actor="ann", moment=Moment()))
    assert isinstance(now, StatePage)
    assert now.lines == tuple(line.decode() for line in lines(tables.rows))


async def test_before_the_first_row_there_was_nothing_and_behind_the_last_one_is_a_refusal(
    registry_world: World,
) -> None:
    await registry_world.token("site-a")
    page = await past(registry_world, ReadState(actor="ann", moment=Moment(at="2020-01-01T00:00:00Z")))
    assert isinstance(page, StatePage)
    assert (page.place.seq, page.lines) == (0, ())
    for moment, word in (
        (Moment(seq=7), "come to 1"),
        (Moment(at="yesterday"), "RFC 3339"),
        (Moment(at="2026-01-01T00:00"), "zone"),
    ):
        refused = await past(registry_world, ReadState(actor="ann", moment=moment))
        assert isinstance(refused, Problem)
        assert word in refused.detail


async def test_a_difference_names_the_rows_and_who_changed_them(registry_world: World) -> None:
    world = registry_world
    await world.enrol("gw1", "gateway")
    await world.enrol("site-a")
    first = await done(world, http("wiki"))
    second = await done(world, replace(http("wiki", "docs.example.com"), actor="bob"))
    assert isinstance(first, Written)
    assert isinstance(second, Written)
    page = await past(world, ReadDiff(actor="ann", since=Moment(seq=first.seq), until=Moment(seq=second.seq)))
    assert isinstance(page, DiffPage)
    assert [(bool(change.before), bool(change.after)) for change in page.changes] == [(False, True), (True, True)]
    assert '"table":"freed_host"' in page.changes[0].after
    assert "docs.example.com" in page.changes[1].after
    assert all(
        change.by is not None and (change.by.seq, change.by.actor) == (second.seq, "bob") for change in page.changes
    )


async def test_a_long_state_comes_in_pages_that_belong_together(registry_world: World) -> None:
    world = registry_world
    await world.enrol("site-a")
    for step in range(220):
        await done(world, http(f"s{step}"))
    found: list[str] = []
    moment, after = Moment(), 0
    while True:
        page = await past(world, ReadState(actor="ann", moment=moment, after=after))
        assert isinstance(page, StatePage)
        found += page.lines
        if not page.next_after:
            break
        await done(world, http("s1", f"moved{after}.example.com"))  # what happens meanwhile is not in it
        moment, after = Moment(seq=page.place.seq, at=page.place.moment), page.next_after
    assert page.next_after == 0
    assert after > 0, "one page held it all"
    assert digest(line.encode() for line in found) == page.place.digest


async def test_a_snapshot_leads_to_the_same_state_and_is_begun_from(registry_world: World) -> None:
    world = registry_world
    await a_life(world)
    tables = await truth.read(world.database)
    keeper = History(world.database)
    await keeper.keep_snapshots(every=10)
    assert await history.newest(world.database) == tables.seq // 10 * 10
    stored = await history.nearest(world.database, tables.seq)
    assert stored is not None
    whole = fold(State(log_id=tables.log_id), await log_of(world.database, stored.seq))
    assert dump(stored) == dump(whole)
    await world.database.execute("delete from event_log where seq <= $1", stored.seq)
    world.folds = False  # the beginning of its log is gone
    state = await History(world.database).state(tables.seq)
    assert state.lines(tables.moment) == lines(tables.rows)


async def test_what_has_expired_leaves_the_state_when_it_does_and_not_when_it_is_tidied_up(
    registry_world: World,
) -> None:
    world = registry_world
    await world.enrol("site-a")
    await done(world, http("wiki"))
    await done(world, UnpublishService(actor="ann", service_id=ServiceId("wiki")))
    state = await folds_into_its_tables(world.database)
    later = datetime.now(UTC) + timedelta(hours=25)
    in_tables = await truth.read(world.database, later)
    assert state.lines(in_tables.moment) == lines(in_tables.rows)
    assert {"freed_host", "join_token"}.isdisjoint(map(table_of, in_tables.rows))
