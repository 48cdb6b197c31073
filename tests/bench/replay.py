"""The time machine over a long log: from its first row, and from a stored snapshot. A PostgreSQL of its own, no lab."""

import asyncio
import shutil
import tempfile
import time
from pathlib import Path

import asyncpg

from bench.harness import Figure, progress
from kakuremichi.audit.state import digest
from kakuremichi_registry.database import Database, open_database
from kakuremichi_registry.embedded_postgres import start
from kakuremichi_registry.history import SNAPSHOT_EVERY, History
from kakuremichi_registry.migrate import migrate
from kakuremichi_registry.store import history

CHANGES = 1_000_000
SERVICES = 10_000
SNAPSHOT_RUNS = 3
SNAPSHOT_AT = (CHANGES // SNAPSHOT_EVERY - 1) * SNAPSHOT_EVERY  # as far behind the end as one ever is

# Every change of a service gives it one of two host names in turn, so names are freed and taken all the time.
FACT = """
format('{"type":"service.published.v1","service_id":"s%1$s","pool":"main","kind":"http","host":"%2$s-%1$s.example.com",'
       '"path":"","first_port":0,"last_port":0,"sources":[],"targets":[{"target_id":"s%1$s-1","agent":"site-a",'
       '"agent_port":%3$s,"address":"192.168.2.130","port":8080}]}',
       row % services, case when row / services % 2 = 0 then 'a' else 'b' end, 20000 + row % services)
"""
FILL = f"""
do $do$
declare
    services constant bigint := {SERVICES};
    before   bytea := decode(repeat('00', 32), 'hex');
    begun    timestamptz := clock_timestamp() - interval '30 days';
    row      bigint;
    fact     text;
    now      bytea;
begin
    for row in 1..{CHANGES} loop
        if row % kk_log_partition_rows() = 1 then perform kk_log_partition(row); end if;
        fact := {FACT.strip()};
        now := kk_log_hash(before, row, 'service-published', 'bench', begun + row * interval '1 second', fact);
        insert into event_log values
            (row, before, now, 'service-published', 'bench', begun + row * interval '1 second', fact, '');
        before := now;
    end loop;
    insert into log_head (log_id, seq, hash) values ('bench', {CHANGES}, before);
end $do$
"""  # noqa: S608  # constants of ours


async def measure() -> list[Figure]:
    folder = Path(tempfile.mkdtemp(prefix="kb-replay-"))
    try:
        server = await asyncio.to_thread(start, folder)
        try:
            await _fill(server.dsn)
            async with open_database(server.dsn) as database:
                return await _figures(database)
        finally:
            await asyncio.to_thread(server.stop)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _fill(dsn: str) -> None:
    connection = await asyncpg.connect(dsn, command_timeout=None)
    try:
        await migrate(connection)
        progress(f"writing {CHANGES:,} rows of log")
        await connection.execute("set synchronous_commit = off")
        await connection.execute(FILL)
        await connection.execute("analyze event_log")
    finally:
        await connection.close()


async def _figures(database: Database) -> list[Figure]:
    begun = time.monotonic()
    whole = await History(database).state(CHANGES)
    replay_s = time.monotonic() - begun
    progress(f"folded from row 1 in {replay_s:.1f} s: {len(whole.services)} services")
    await history.keep(database, await History(database).state(SNAPSHOT_AT))
    samples = []
    for _ in range(SNAPSHOT_RUNS):
        begun = time.monotonic()
        state = await History(database).state(CHANGES)
        lines = state.lines()
        samples.append(time.monotonic() - begun)
        if digest(lines) != digest(whole.lines()):
            raise RuntimeError("the state from the snapshot is another one than that from the first row")
    note = f"{CHANGES - SNAPSHOT_AT:,} rows behind the snapshot, canonical lines included"
    return [
        Figure("replay_1m_s", replay_s, [replay_s], f"{CHANGES / replay_s:,.0f} rows/s"),
        Figure("state_from_snapshot_s", max(samples), samples, note),
    ]
