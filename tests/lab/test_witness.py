"""Gateways of the running fleet vouch for the log over the real bus, and say so when they are shown another one."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from msgspec import structs

from kakuremichi.audit import export
from kakuremichi.audit.verify import Report, verify
from kakuremichi.cli.audit import exported
from kakuremichi.fleet.lab_fleet import GATEWAYS, Fleet
from kakuremichi.lab.units import Unit
from kakuremichi.wire import signing
from kakuremichi.wire.checkpoints import CHECKPOINT, Checkpoint
from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.signing import Signed
from kakuremichi_registry.database import Database, open_database
from kakuremichi_registry.store import checkpoints as store
from kakuremichi_registry.trust import open_trust
from lab.test_metrics import scraped, socket_of
from support.processes import processes_with

# A fresh fleet's registry signs within a minute, and gateways ask once a minute.
pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
PATIENCE_S = 150.0


class Portal:
    """As the command line asks it, from inside the lab."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def call(self, _method: str, *where: str, query: dict[str, str], timeout_s: float) -> Any:
        del timeout_s
        with self._fleet.api() as api:
            return api.get(f"/{'/'.join(where)}?{urlencode(query)}")


def verified(fleet: Fleet) -> Report:
    """The live deployment's export, checked offline."""
    return verify([export.encode(line) for line in exported(Portal(fleet))])


def control_env(fleet: Fleet, name: str) -> dict[str, str]:
    (unit,) = (unit for unit in fleet.control.units() if unit.name == name)
    return unit.env


async def until(holds: Callable[[], Any]) -> Any:
    """What `holds` gives once it is true; it may take its time."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := await asyncio.to_thread(holds)):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.5)
    return found


def by_all(fleet: Fleet) -> Report | None:
    report = verified(fleet)
    assert report.findings == []
    return report if report.witnesses >= set(GATEWAYS) else None  # others may have been here for a while


async def test_the_export_of_the_live_deployment_names_the_gateways_that_vouch_for_it(fleet: Fleet) -> None:
    report = await until(lambda: by_all(fleet))
    assert 0 < report.witnessed <= report.covered <= report.rows
    trust = open_trust(Path(control_env(fleet, "registry")["KAKUREMICHI_TRUST_DIR"]))
    assert report.trust_sha256 == hashlib.sha256(trust.trust_set.body).digest()


async def test_a_gateway_that_is_shown_another_log_tells_it_in_its_status_and_metrics(fleet: Fleet) -> None:
    await until(lambda: by_all(fleet))
    async with another_checkpoint(fleet) as (size, put_right), processes_with(fleet, metrics_of(fleet)):
        shown = {name: await until(partial(log_warning, fleet, name)) for name in GATEWAYS}
        for name in GATEWAYS:
            said = shown[name].removeprefix(f"log-fork: log of {size} rows: ")
            # The one that it vouched for last may be of fewer rows.
            assert said.startswith(("is another one than before", "does not continue")), shown[name]
            assert (await scraped(socket_of(fleet, name)))["kakuremichi_node_log_fork"] == 1
            assert (state_of(fleet, name) / "checkpoint-contradicted").exists()
        await put_right()  # before the gateways start again, who ask at once then
    assert await until(lambda: not any(log_warning(fleet, name) for name in GATEWAYS)), "the right log ends the alarm"
    for name in GATEWAYS:
        (state_of(fleet, name) / "checkpoint-contradicted").unlink()


def metrics_of(fleet: Fleet) -> Callable[[Unit], dict[str, str]]:
    def env_of(unit: Unit) -> dict[str, str]:
        if unit.name not in GATEWAYS:
            return {}
        return {"KAKUREMICHI_METRICS_LISTEN": f"unix:{socket_of(fleet, unit.name)}"}

    return env_of


def state_of(fleet: Fleet, name: str) -> Path:
    return fleet.node_host(name).directory / "state"


def log_warning(fleet: Fleet, name: str) -> str:
    with fleet.api() as api:
        warnings = api.get(f"/gateways/{name}")["warnings"]
    return next((said for said in warnings if said.startswith("log-fork")), "")


@asynccontextmanager
async def another_checkpoint(fleet: Fleet) -> AsyncIterator[tuple[int, Callable[[], Awaitable[None]]]]:
    """In place of what the gateways have signed the registry shows them another root of as many rows.

    Gives that number, and what puts it right again.
    """
    env = control_env(fleet, "registry")
    trust = open_trust(Path(env["KAKUREMICHI_TRUST_DIR"]))
    async with open_database(env["KAKUREMICHI_DATABASE_URL"]) as database:
        kept = await store.newest(database)
        assert kept is not None
        true = decode(kept.signed.body, Checkpoint)
        other = encode(structs.replace(true, root=b"\xee" * 32))
        await show(database, kept.size, signing.sign(CHECKPOINT, trust.deployment, other, trust.feed_key), "1 hour")

        async def put_right() -> None:
            await show(database, kept.size, kept.signed, "-1 hour")

        try:
            yield kept.size, put_right
        finally:
            await put_right()


async def show(database: Database, size: int, signed: Signed, age: str) -> None:
    """One that seems to be from later is followed by no other for so long."""
    await database.execute(
        "update checkpoint set signed = $2, at = clock_timestamp() + $3::text::interval where size = $1",
        size, encode(signed), age,
    )  # fmt: skip
