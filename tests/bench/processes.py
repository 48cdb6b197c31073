"""Which processes a gateway starts while agents come and go."""

import asyncio
import os
from collections import Counter
from pathlib import Path

import msgspec

from bench.changes import make_changes, tcp_requests
from bench.crowd import enrol_crowd, wait_applied
from bench.harness import Figure, progress
from bench.stage import Stage
from kakuremichi.lab.units import Unit

GUESTS = 50
WATCHED = "gw2"
PROBES = 1  # `haproxy -vv` at its start: nothing else tells what HAProxy was built with
AUDIT = Path(__file__).with_name("audit")


async def measure(stage: Stage) -> list[Figure]:
    """Every program that the gateway's process starts, from its first line on, but for `nft` and one probe."""
    await stage.nodes()
    written = stage.directory / "processes.txt"
    await _restart_watched(stage, written)
    names = [f"guest-{number}" for number in range(1, GUESTS + 1)]
    await enrol_crowd(stage, names)
    await asyncio.to_thread(_remove, stage, names)
    # A change of the table in between: an audit that saw no nft would have seen nothing at all.
    await asyncio.to_thread(make_changes, stage, tcp_requests(15, name="audit"))
    started = Counter(_program(line) for line in written.read_text().splitlines())
    progress(f"programs that {WATCHED} started: {dict(started)}")
    if not started["nft"]:
        raise RuntimeError(f"gateway {WATCHED}: the audit saw no nft, so it saw nothing")
    others = started - Counter(nft=started["nft"], haproxy=PROBES)  # nft: one batch a change of the table
    note = (
        f"{GUESTS} agents came and went; nft {started['nft']} times, haproxy {started['haproxy']} (one is the probe at"
        f" its start), others {dict(others) or 'none'}"
    )
    return [Figure("reconciler_subprocesses", others.total(), note=note)]


async def _restart_watched(stage: Stage, written: Path) -> None:
    """The same gateway with the audit hook; it adopts its interface, table and HAProxy."""
    definition = stage.directory / "keeper" / "units" / f"{WATCHED}.json"
    unit = msgspec.json.decode(definition.read_bytes(), type=Unit)
    path = os.pathsep.join(filter(None, (str(AUDIT), os.environ.get("PYTHONPATH", ""))))
    env = unit.env | {"PYTHONPATH": path, "KAKUREMICHI_BENCH_AUDIT": str(written)}
    await stage.fleet.units.start(msgspec.structs.replace(unit, env=env))


def _remove(stage: Stage, names: list[str]) -> None:
    api = stage.fleet.api()
    for name in names:
        api.delete(f"/agents/{name}")
    api.close()
    wait_applied(stage)


def _program(line: str) -> str:
    """`nft` of an audited event; of one that names no program, a fork, the event."""
    event, _, program = line.partition("\t")
    return Path(program).name or event
