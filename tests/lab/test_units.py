"""The keeper starts again what ends, leaves alone what lives, and may itself die at any moment."""

import asyncio
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from kakuremichi.lab import record
from kakuremichi.lab.internet import Lab
from kakuremichi.lab.keeper_client import Units
from kakuremichi.lab.keeping import UnitStatus
from kakuremichi.lab.units import Unit, UnitError

SLEEPER = Unit(name="sleeper", argv=("sleep", "300"))


@pytest.fixture
async def units(run_dir: Path) -> AsyncIterator[Units]:
    async with Units(run_dir / "run") as started:
        yield started
    with suppress(UnitError):
        async with Units(run_dir / "run") as again:
            await again.down()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  (what is waited for happens in another process)
            await asyncio.sleep(0.02)


async def until(units: Units, name: str, condition: Callable[[UnitStatus], bool]) -> UnitStatus:
    async with asyncio.timeout(15):
        while True:
            if condition(status := (await units.status())[name]):
                return status
            await asyncio.sleep(0.02)


async def ended(pid: int) -> None:
    await eventually(lambda: record.start_time(pid) is None)


def inode(path: str) -> int:
    return Path(path).stat().st_ino


def content(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def test_a_killed_unit_is_started_again(units: Units) -> None:
    first = await units.start(SLEEPER)
    await units.kill("sleeper")
    second = await until(units, "sleeper", lambda unit: unit.state == "running" and unit.pid != first.pid)
    assert second.starts == 2
    assert second.exit_code == -signal.SIGKILL


async def test_starting_the_same_unit_again_changes_nothing_and_another_definition_replaces_it(units: Units) -> None:
    first = await units.start(SLEEPER)
    assert (await units.start(SLEEPER)).pid == first.pid

    other = await units.start(Unit(name="sleeper", argv=("sleep", "301")))

    assert other.pid != first.pid
    assert first.pid is not None
    assert record.start_time(first.pid) is None


async def test_a_stopped_unit_stays_down_until_it_is_restarted(units: Units) -> None:
    first = await units.start(SLEEPER)
    stopped = await units.stop("sleeper")
    assert (stopped.state, stopped.pid) == ("stopped", None)
    assert first.pid is not None
    assert record.start_time(first.pid) is None
    assert (await units.restart("sleeper")).state == "running"


async def test_units_outlive_a_killed_keeper_and_the_next_one_adopts_them(units: Units, run_dir: Path) -> None:
    before = await units.start(SLEEPER)
    keeper = units.keeper_pid
    os.kill(keeper, signal.SIGKILL)
    await ended(keeper)
    with pytest.raises(UnitError, match="the keeper has gone away"):
        await units.status()

    async with Units(run_dir / "run") as later:
        adopted = (await later.status())["sleeper"]
        assert (adopted.pid, adopted.state, adopted.starts) == (before.pid, "running", 0)
        await later.kill("sleeper")
        assert (await until(later, "sleeper", lambda unit: unit.starts == 1)).pid != before.pid
        await later.down()


async def test_a_new_keeper_starts_what_ended_while_none_was_there(units: Units, run_dir: Path) -> None:
    before = await units.start(SLEEPER)
    os.kill(units.keeper_pid, signal.SIGTERM)
    await ended(units.keeper_pid)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)

    async with Units(run_dir / "run") as later:
        after = (await later.status())["sleeper"]
        assert after.state == "running"
        assert after.pid != before.pid
        await later.down()


async def test_a_pid_that_was_given_to_somebody_else_is_not_adopted(units: Units, run_dir: Path) -> None:
    await units.start(SLEEPER)
    await units.stop("sleeper")
    # A living process (this one) under the number of the file, but with another start time.
    (run_dir / "run/units/sleeper.pid").write_text(f"{os.getpid()} 1\n")
    assert (await units.restart("sleeper")).pid != os.getpid()


async def test_down_ends_units_and_keeper(units: Units) -> None:
    unit, keeper = await units.start(SLEEPER), units.keeper_pid
    await units.down()
    assert unit.pid is not None
    assert record.start_time(unit.pid) is None
    assert record.start_time(keeper) is None


async def test_a_program_that_cannot_start_is_reported_and_tried_again(units: Units, run_dir: Path) -> None:
    program = run_dir / "later"
    status = await units.start(Unit(name="late", argv=(str(program),)))
    assert status.state == "waiting"
    assert status.error is not None
    assert status.error.startswith(f"unit late: {program} did not start: ")

    program.write_text("#!/bin/sh\nexec sleep 300\n")
    program.chmod(0o755)

    await until(units, "late", lambda unit: unit.state == "running" and unit.error is None)


async def test_output_environment_and_folder_are_as_the_unit_says(units: Units, run_dir: Path) -> None:
    log = run_dir / "printer.log"
    code = "import os, time; print(os.getcwd(), os.environ['COLOUR'], os.getsid(0) == os.getpid(), flush=True)"
    argv = (sys.executable, "-c", f"{code}; time.sleep(300)")
    await units.start(Unit(name="printer", argv=argv, env={"COLOUR": "indigo"}, cwd=str(run_dir), log=str(log)))
    await eventually(lambda: "\n" in content(log))
    assert content(log) == f"{run_dir} indigo True\n"


async def test_stop_takes_what_the_unit_left_in_its_session(units: Units, run_dir: Path) -> None:
    pid_file = run_dir / "child"
    script = f"sleep 300 & echo $! > {pid_file}; trap 'exit 0' TERM; wait"
    await units.start(Unit(name="parent", argv=("sh", "-c", script)))
    await eventually(lambda: "\n" in content(pid_file))
    await units.stop("parent")
    await ended(int(content(pid_file)))


async def test_the_socket_is_for_its_owner_alone(units: Units, run_dir: Path) -> None:
    assert stat.S_IMODE((run_dir / "run/keeper.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE((run_dir / "run").stat().st_mode) == 0o700


async def test_a_wrong_order_is_answered_with_a_sentence(units: Units, run_dir: Path) -> None:
    with pytest.raises(UnitError, match="unit 'nobody': there is none of that name"):
        await units.stop("nobody")
    await units.start(SLEEPER)
    with pytest.raises(UnitError, match="signal 'LOUD': there is none of that name"):
        await units.kill("sleeper", "LOUD")
    reader, writer = await asyncio.open_unix_connection(run_dir / "run/keeper.sock")
    writer.write(b'{"do": "dance"}\n')
    assert b"Invalid enum value 'dance'" in await reader.readline()
    writer.close()
    await writer.wait_closed()


@pytest.mark.root
async def test_a_unit_lives_on_its_host_of_the_lab(units: Units, lab: Lab) -> None:
    unit = await units.start(Unit(name="site", argv=("sleep", "300"), namespace=lab.namespace("site-a")))
    # At first the process is `ip netns exec`, which is still on its way in.
    await eventually(lambda: inode(f"/proc/{unit.pid}/ns/net") == inode(f"/run/netns/{lab.namespace('site-a')}"))
