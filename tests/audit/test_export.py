"""The log leaves by the API, is good, tells every state by itself, and is held against where it lives."""

import hashlib
import json
from uuid import uuid4

import asyncpg
import pytest

from audit.conftest import Deployment
from kakuremichi.audit.verify import verify
from kakuremichi.wire.commands import UnpublishService
from kakuremichi_registry.embedded_postgres import EmbeddedPostgres
from kakuremichi_registry.store import history
from support.real_registry import http


async def some_history(deployment: Deployment) -> None:
    world = deployment.world
    await world.enrol("gw1", "gateway")
    await world.enrol("site-a")
    for step in range(30):
        await world.ask(http(f"s{step % 7}", f"h{step}.example.com"))
    await world.registry.checkpoints.make()
    await world.ask(UnpublishService(actor="bob", service_id="s3"))  # type: ignore[arg-type]


async def test_an_export_is_good_and_vouched_for_by_its_checkpoint(deployment: Deployment) -> None:
    await some_history(deployment)
    file = await deployment.export()
    with file.open("rb") as lines:
        report = verify(lines)
    assert report.findings == []
    _, last = await history.head(deployment.world.database)
    assert (report.rows, report.checkpoints, report.covered) == (last, 1, last - 1)
    pin = hashlib.sha256(deployment.world.trust.trust_set.body).hexdigest()
    said = await deployment.good(
        "audit", "verify", file, "--trust-sha256", pin, "--noted", f"{last}:{report.hash.hex()}"
    )
    assert said.stdout.endswith("good\n")
    assert (await deployment.cli("audit", "export", "--output", file)).exit_code == 2, "nothing is overwritten"


async def test_the_file_tells_what_the_portal_tells(deployment: Deployment) -> None:
    await some_history(deployment)
    file = await deployment.export()
    asked = (("state", "--at", "9"), ("diff", "9", "20"), ("diff", "20", "9"), ("diff", "9", "20", "-o", "json"))
    for words in asked:
        by_portal, by_file = await deployment.good(*words), await deployment.good(*words, "--from", file)
        assert by_portal.stdout == by_file.stdout
        assert len(by_portal.stdout) > 100
    assert (await deployment.good("replay", file, "--at", "9")).stdout == (
        await deployment.good("state", "--at", "9")
    ).stdout
    told = json.loads((await deployment.good("state", "-o", "json")).stdout)
    assert told["place"]["count"] == len(told["rows"])
    by_time = await deployment.good("state", "--at", told["place"]["at"])
    assert '"h29.example.com"' in by_time.stdout


async def test_a_change_in_the_file_is_printed_with_its_place_and_ends_with_1(deployment: Deployment) -> None:
    await some_history(deployment)
    file = await deployment.export()
    lines = file.read_bytes().replace(b"h11.example.com", b"evil.example.cm")
    file.write_bytes(lines)
    said = await deployment.cli("audit", "verify", file)
    assert said.exit_code == 1
    (finding, *_) = said.stdout.splitlines()
    assert finding.startswith("line ")
    assert "is not what was written" in finding


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"hello\n", "line 1"),
        (b"\x00\xff\n", "line 1"),
        (b'{"line":"end","rows":0,"hash":""}\n', "header"),
    ],
)
@pytest.mark.parametrize("words", [("audit", "verify"), ("replay",)])
async def test_what_is_no_export_is_a_sentence_and_exit_code_2(
    deployment: Deployment, words: tuple[str, ...], content: bytes, word: str
) -> None:
    file = deployment.folder / "foreign"
    file.write_bytes(content)
    said = await deployment.cli(*words, file)
    assert said.exit_code == 2
    assert said.stderr.startswith("error: ")
    assert word in said.stderr


async def test_an_export_that_was_cut_off_is_neither_verified_nor_replayed(deployment: Deployment) -> None:
    await some_history(deployment)
    file = await deployment.export()
    whole = file.read_bytes()
    for cut in (whole[: len(whole) // 2], b"".join(whole.splitlines(keepends=True)[:-1])):
        file.write_bytes(cut)
        verified, replayed = await deployment.cli("audit", "verify", file), await deployment.cli("replay", file)
        assert (verified.exit_code, replayed.exit_code) == (1, 2)
        assert "cut off" in verified.stdout
        assert "cut off" in replayed.stderr
    assert (await deployment.cli("replay", deployment.folder / "nowhere")).exit_code == 2


async def test_the_database_is_held_against_an_export(deployment: Deployment) -> None:
    """Somebody with the database can write all hashes anew; not those in a file that lies elsewhere."""
    await some_history(deployment)
    file = await deployment.export()
    env = {"KAKUREMICHI_DATABASE_URL": deployment.world.database.dsn}
    await deployment.good("audit", "verify", file, "--against-database", env=env)
    await deployment.world.database.execute("update event_log set actor = 'nobody' where seq = 12")
    deployment.world.folds = False
    said = await deployment.cli("audit", "verify", file, "--against-database", env=env)
    assert said.exit_code == 1
    assert "log row 12: actor differ" in said.stdout
    await deployment.world.database.execute("delete from event_log where seq = 12")
    said = await deployment.cli("audit", "verify", file, "--against-database", env=env)
    assert "log row 12: is missing in the database" in said.stdout
    other = await deployment.cli("audit", "verify", file, "--against", deployment.folder / "nowhere")
    assert other.exit_code == 2


async def test_a_second_database_is_filled_and_holds_the_same(
    deployment: Deployment, postgres: EmbeddedPostgres
) -> None:
    await some_history(deployment)
    file = await deployment.export()
    name = f"shadow{uuid4().hex}"
    admin = await asyncpg.connect(postgres.dsn)
    await admin.execute(f'create database "{name}"')
    try:
        env = {"SHADOW_DATABASE_URL": postgres.dsn.replace("/postgres?", f"/{name}?")}
        told = json.loads((await deployment.good("state", "--from", file, "-o", "json")).stdout)["place"]["digest"]
        assert told in (await deployment.good("replay", file, env=env)).stdout
        again = await deployment.cli("replay", file, env=env)
        assert (again.exit_code, "not empty" in again.stderr) == (2, True)
    finally:
        await admin.execute(f'drop database "{name}" with (force)')
        await admin.close()
