"""Old rows leave the database with an export that proves them; the rest of the log stays whole, and says so."""

import asyncio
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from audit.conftest import Deployment
from kakuremichi.audit import export
from kakuremichi.audit.verify import verify
from kakuremichi.bus.memory import MemoryNats
from kakuremichi.wire import subjects
from kakuremichi_registry.embedded_postgres import EmbeddedPostgres
from kakuremichi_registry.relay_sources import Facts
from kakuremichi_registry.store import history, retirement
from support.history import folds_into_its_tables
from support.real_registry import World, http
from support.retention import PARTITION, grow_to, relayed, small_partitions
from support.witness import Gateway

RETIRING = """
select from pg_stat_activity where datname = current_database() and state = 'active' and query like '%kk_retire_log%'
and pid <> pg_backend_pid()
"""
FORGE = """
update checkpoint_witness set signature = set_byte(signature, length(signature) - 1, get_byte(signature, 3) # 1)
"""

pytestmark = pytest.mark.timeout(120)


@dataclass
class Retiring:
    """A deployment whose log has small partitions, and a gateway that is its witness."""

    deployment: Deployment
    gateway: Gateway
    env: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.env = {"KAKUREMICHI_DATABASE_URL": self.world.database.dsn}

    @property
    def world(self) -> World:
        return self.deployment.world

    def file(self, name: str) -> Path:
        return self.deployment.folder / name

    async def grow(self, rows: int, *, vouched: bool = True) -> None:
        """The log has `rows` rows, its services have changed, and the gateway has signed a checkpoint of all."""
        await self.world.ask(http("wiki", f"h{rows}.example.com"))
        await grow_to(self.world.database, rows)
        if vouched:
            size = await self.world.registry.checkpoints.make()
            assert await self.gateway.witness.once() == size

    def words(self, before: object, name: str, *more: str) -> tuple[str, ...]:
        return ("audit", "retire", "--before", str(before), "--to", str(self.file(name)), *more)

    async def retire(self, before: object, name: str, *more: str) -> str:
        await relayed(self.world.database, (await history.head(self.world.database))[1])
        words = self.words(before, name, *more)
        return (await self.deployment.good(*words, env=self.env)).stdout

    async def refused(self, before: object, name: str, *more: str) -> str:
        words = self.words(before, name, *more)
        said = await self.deployment.cli(*words, env=self.env)
        assert said.exit_code == 2, said.output
        return said.stderr

    async def digest(self, moment: object, *more: object) -> str:
        said = await self.deployment.good("state", "--at", str(moment), "-o", "json", *more)  # type: ignore[arg-type]
        digest: str = json.loads(said.stdout)["place"]["digest"]
        return digest


@pytest.fixture
async def retiring(deployment: Deployment, nats: MemoryNats) -> Retiring:
    world = deployment.world
    await small_partitions(world.database)
    node = await world.enrol("gw1", "gateway")
    await world.enrol("site-a")
    bus = nats.connect(subjects.reply_prefix(node.node_id))
    return Retiring(deployment, Gateway(node, bus, deployment.folder / "gw1"))


async def test_rows_leave_with_a_file_that_proves_them_and_everything_later_can_still_be_asked(
    retiring: Retiring, postgres: EmbeddedPostgres
) -> None:
    world, deployment = retiring.world, retiring.deployment
    await retiring.grow(700)
    await retiring.grow(1500)
    await retiring.grow(2500)
    before = {moment: await retiring.digest(moment) for moment in (300, PARTITION, 1600, 2400)}
    changed = (await deployment.good("diff", "1100", "2400")).stdout
    whole = await deployment.export("whole.jsonl")

    said = await retiring.retire(1500, "old.jsonl")
    assert said.startswith(f"rows 1 to {PARTITION} retired")

    with retiring.file("old.jsonl").open("rb") as lines:
        report = verify(lines)
    assert report.findings == []
    assert (report.rows, report.last, report.witnessed, report.witnesses) == (PARTITION, PARTITION, PARTITION, {"gw1"})
    rows = await world.database.fetch("select min(seq) as first from event_log")
    assert rows[0]["first"] == PARTITION + 1
    for moment in (PARTITION, 1600, 2400):
        assert await retiring.digest(moment) == before[moment]
    assert (await deployment.good("diff", "1100", "2400")).stdout == changed
    (cut,) = await retirement.cuts(world.database)
    for words in (("state", "--at", "300"), ("diff", "300", "now"), ("state", "--at", "2020-01-01T00:00Z")):
        told = await deployment.cli(*words)
        assert told.exit_code == 3
        assert f"behind row {PARTITION}" in told.stderr
        assert cut.export_sha256.hex() in told.stderr
    assert await retiring.digest(300, "--from", retiring.file("old.jsonl")) == before[300]

    left = await deployment.export("left.jsonl")
    for moment in (PARTITION, 1600, 2400):
        assert await retiring.digest(moment, "--from", left) == before[moment]
    early = await deployment.cli("state", "--at", "300", "--from", left)
    assert (early.exit_code, "earlier export" in early.stderr) == (2, True)
    assert (await deployment.good("audit", "verify", left)).stdout.endswith("good\n")
    together = await deployment.good("audit", "verify", left, retiring.file("old.jsonl"))
    assert together.stdout.endswith("good\n")
    await deployment.good("audit", "verify", left, "--against-database", env=retiring.env)
    await deployment.good("audit", "verify", whole, "--against-database", env=retiring.env)
    await the_rest_fills_a_second_database(retiring, postgres, left)
    await folds_into_its_tables(world.database)
    facts, log_id = Facts(world.database), (await history.head(world.database))[0]
    known = [await facts.position_of(f"{log_id}:{seq}") for seq in (5, PARTITION + 5, 10**6)]
    assert known == [5, PARTITION + 5, None], "a stream that ends with a row that has left is gone on with"


async def the_rest_fills_a_second_database(retiring: Retiring, postgres: EmbeddedPostgres, left: Path) -> None:
    name = f"shadow{uuid4().hex}"
    admin = await asyncpg.connect(postgres.dsn)
    await admin.execute(f'create database "{name}"')
    try:
        env = {"SHADOW_DATABASE_URL": postgres.dsn.replace("/postgres?", f"/{name}?")}
        told = json.loads((await retiring.deployment.good("state", "--from", left, "-o", "json")).stdout)["place"]
        assert told["digest"] in (await retiring.deployment.good("replay", left, env=env)).stdout
    finally:
        await admin.execute(f'drop database "{name}" with (force)')
        await admin.close()


async def test_a_second_retirement_goes_on_from_the_first_and_all_parts_meet(retiring: Retiring) -> None:
    world, deployment = retiring.world, retiring.deployment
    await retiring.grow(1500)
    seen = await retiring.gateway.witness.once()
    await grow_to(world.database, 2300)
    await retiring.retire(1500, "one.jsonl")
    await retiring.grow(3300)
    assert retiring.gateway.warnings == {"log": ""}
    assert await retiring.gateway.witness.once() > seen, "a proof leads on from rows that have left"
    at_cut = await retiring.digest(2 * PARTITION)
    said = await retiring.retire(3000, "two.jsonl")
    assert said.startswith(f"rows {PARTITION + 1} to {2 * PARTITION} retired")
    left = await deployment.export("left.jsonl")
    parts = [retiring.file("two.jsonl"), left, retiring.file("one.jsonl")]
    held = ("--held", retiring.file("gw1") / "checkpoint")
    assert (await deployment.good("audit", "verify", *parts, *held)).stdout.endswith("good\n")
    assert await retiring.digest(2 * PARTITION, "--from", retiring.file("two.jsonl")) == at_cut
    told = await deployment.cli("state", "--at", "300")
    one, two = await retirement.cuts(world.database)
    assert one.export_sha256.hex() in told.stderr
    told = await deployment.cli("state", "--at", "1600")
    assert two.export_sha256.hex() in told.stderr
    await grow_to(world.database, 3500)
    assert await world.registry.checkpoints.make() == 3500
    assert await retiring.gateway.witness.once() == 3500
    await folds_into_its_tables(world.database)


async def test_what_nobody_vouches_for_stays_and_the_sentence_says_why(retiring: Retiring) -> None:
    world = retiring.world
    await retiring.grow(600)
    assert "newest partition" in await retiring.refused(500, "x")
    await retiring.grow(1500, vouched=False)
    assert "as a whole" in await retiring.refused(900, "x")
    assert "cosigned by a gateway" in await retiring.refused(1500, "x")
    await relayed(world.database, 1500)
    await world.registry.checkpoints.make()
    assert "cosigned by a gateway" in await retiring.refused("now", "x"), "the registry's own word is not enough"
    await retiring.gateway.witness.once()
    assert "cosigned by 2 gateways" in await retiring.refused("now", "x", "--witnesses", "2")
    assert "trust set" in await retiring.refused("now", "x", "--trust-sha256", "ab" * 32)
    retiring.file("mine").write_text("a letter\n")
    assert "line 1" in await retiring.refused("now", "mine")
    assert retiring.file("mine").read_text() == "a letter\n"
    other = await retiring.deployment.export("whole.jsonl")
    assert "is not the export of rows" in await retiring.refused("now", other.name)
    assert "No such file" in await retiring.refused("now", "nowhere/x")
    await world.database.execute(FORGE)
    assert "cosigned by a gateway" in await retiring.refused("now", "x"), "what is no signature vouches for nothing"
    unset = await retiring.deployment.cli("audit", "retire", "--before", "now", "--to", retiring.file("x"))
    assert (unset.exit_code, "KAKUREMICHI_DATABASE_URL" in unset.stderr) == (2, True), unset.stderr
    rows = await world.database.fetch("select min(seq) as first, max(seq) as last from event_log")
    assert (rows[0]["first"], rows[0]["last"]) == (1, 1500)
    assert not retiring.file("x").exists()


async def test_a_run_that_is_killed_before_the_rows_go_has_changed_nothing_and_the_next_goes_on(
    retiring: Retiring,
) -> None:
    world, file = retiring.world, retiring.file("old.jsonl")
    await retiring.grow(1500)
    await relayed(world.database, 1500)
    async with world.database.own_connection() as connection, connection.transaction():
        await connection.execute("set local idle_in_transaction_session_timeout = 0")
        await connection.execute("select from log_head for update")  # nobody can write, so the rows cannot go yet
        argv = (sys.executable, "-m", "kakuremichi_registry.retire", "--before", "1400", "--to", str(file))
        run = await asyncio.create_subprocess_exec(*argv, env={**os.environ, **retiring.env})
        async with asyncio.timeout(40):
            while not file.exists():  # noqa: ASYNC110  # another process writes it
                await asyncio.sleep(0.05)
            while not await world.database.fetch("select from log_cut_run"):  # noqa: ASYNC110  # verified, too
                await asyncio.sleep(0.05)
        run.send_signal(signal.SIGKILL)
        await run.wait()
        async with asyncio.timeout(20):  # the server ends what the dead client had begun, when its wait is over
            while await world.database.fetch(RETIRING):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert (await history.head(world.database))[1] == 1500
    assert (await world.database.fetch("select min(seq) as first from event_log"))[0]["first"] == 1
    written = file.read_bytes()
    await retiring.grow(1600)
    await folds_into_its_tables(world.database)
    await retiring.retire(1400, file.name)
    assert file.read_bytes() == written
    assert "have left already" in await retiring.refused(1000, file.name)
    left = await retiring.deployment.export("left.jsonl")
    assert (await retiring.deployment.good("audit", "verify", file, left)).stdout.endswith("good\n")


async def test_writes_go_on_while_rows_leave(retiring: Retiring) -> None:
    world = retiring.world
    await retiring.grow(1500)
    stop = asyncio.Event()
    answers: list[str] = []

    async def write() -> None:
        while not stop.is_set():
            answer = await world.ask(http("busy", f"b{len(answers)}.example.com"))
            answers.append(type(answer).__name__)

    writing = asyncio.create_task(write())
    await retiring.retire(1400, "old.jsonl")
    more = len(answers) + 3
    async with asyncio.timeout(20):
        while len(answers) < more:  # noqa: ASYNC110  # the writer goes on
            await asyncio.sleep(0.02)
    stop.set()
    await writing
    assert set(answers) == {"Written"}
    await folds_into_its_tables(world.database)


async def test_what_is_missing_swapped_or_changed_between_the_parts_is_found_where_it_is(retiring: Retiring) -> None:
    deployment = retiring.deployment
    await retiring.grow(700)
    await retiring.grow(1500)
    await retiring.retire(1400, "one.jsonl")
    await retiring.grow(2500)
    await retiring.retire(2400, "two.jsonl")
    one, two = retiring.file("one.jsonl"), retiring.file("two.jsonl")
    left = await deployment.export("left.jsonl")

    async def findings(*files: Path) -> str:
        said = await deployment.cli("audit", "verify", *files)
        assert said.exit_code == 1, said.output
        return said.stdout

    assert f"rows 1 to {PARTITION} are missing before {two}" in await findings(two, left)
    assert f"rows {PARTITION + 1} to {2 * PARTITION} are missing between {one} and {left}" in await findings(one, left)
    assert "are in" in await findings(one, one, two, left)
    # The same rows with one cosignature less: good by itself, and not what the log names.
    lines = one.read_bytes().splitlines(keepends=True)
    swapped = retiring.file("swapped.jsonl")
    marks = [at for at, line in enumerate(lines) if line.startswith(b'{"line":"checkpoint"')]
    swapped.write_bytes(b"".join(line for at, line in enumerate(lines) if at not in marks))
    with swapped.open("rb") as alone:
        assert verify(alone).good
    assert f"{swapped} has the SHA-256" in await findings(swapped, two, left)
    changed = retiring.file("changed.jsonl")
    for what, word in ((b"person/ann", "is not what was written"), (b'"role\\":\\"agent', "line 2")):
        changed.write_bytes(two.read_bytes().replace(what, what[:-1] + b"X", 1))
        assert word in await findings(one, changed, left)
    begun = left.read_bytes().splitlines(keepends=True)
    begin = json.loads(begun[1])
    for name in ("hash", "export_sha256", "state_sha256"):
        begun[1] = json.dumps(begin | {name: "ab" * 32}).encode() + b"\n"
        file = retiring.file("begun.jsonl")
        file.write_bytes(b"".join(begun))
        assert "row 2048" in await findings(file)
    assert export.FORMAT_OF_PART.encode() in begun[0]
