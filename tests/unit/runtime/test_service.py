import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from kakuremichi.runtime import service
from kakuremichi.runtime.notify import notify, watchdog_interval_s
from kakuremichi.runtime.service import LoopDiedError, run_until_stopped

PROGRAM = """
import asyncio, sys
from kakuremichi.runtime.config import read_config
from kakuremichi.runtime.logs import setup_logs
from kakuremichi.runtime.service import run_service, run_until_stopped
from msgspec import Struct

class Settings(Struct):
    needed: str

async def steady(stop):
    print("ready", flush=True)
    await stop.wait()
    print("finished the step in hand", flush=True)

async def broken(stop):
    raise ValueError("the disk is gone")

async def main():
    if sys.argv[1] == "config":
        read_config(Settings, {})
    await run_until_stopped(**{"steady": steady, **({"broken": broken} if sys.argv[1] == "broken" else {})})

setup_logs("demo")
sys.exit(run_service("demo", main))
"""


async def waiting(stop: asyncio.Event) -> None:
    await stop.wait()


async def start(mode: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, mode, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


async def test_sigterm_lets_every_loop_finish_and_exits_with_0() -> None:
    process = await start("steady")
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"

    process.terminate()
    out, err = await process.communicate()

    assert (process.returncode, out, err) == (0, b"finished the step in hand\n", b"")


async def test_a_dead_loop_is_a_dead_process_with_one_line_that_says_why() -> None:
    process = await start("broken")
    _, err = await process.communicate()

    assert process.returncode == service.EXIT_FAILED
    lines = err.decode().splitlines()
    assert len(lines) == 1
    assert "loop broken: ValueError: the disk is gone" in lines[0]


async def test_a_refused_configuration_has_its_own_exit_code() -> None:
    process = await start("config")
    _, err = await process.communicate()

    assert process.returncode == service.EXIT_CONFIG
    assert b"KAKUREMICHI_NEEDED: not set" in err


async def test_a_loop_that_returns_early_ends_the_others() -> None:
    cancelled = asyncio.Event()

    async def early(_: asyncio.Event) -> None:
        await asyncio.sleep(0)

    async def other(stop: asyncio.Event) -> None:
        try:
            await stop.wait()
        finally:
            cancelled.set()

    with pytest.raises(ExceptionGroup) as caught:
        await run_until_stopped(early=early, other=other)

    assert caught.group_contains(LoopDiedError, match="loop early: returned before it was told to stop")
    assert cancelled.is_set()


async def test_a_loop_that_does_not_stop_is_cut_after_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "GRACE_S", 0.05)

    async def stubborn(_: asyncio.Event) -> None:
        await asyncio.sleep(3600)

    running = asyncio.create_task(run_until_stopped(stubborn=stubborn, waiting=waiting))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)

    await asyncio.wait_for(running, 5)


async def test_systemd_hears_readiness_heartbeats_and_the_end(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(run_dir / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(run_dir / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "40000")
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(5):
            running = asyncio.create_task(run_until_stopped(waiting=waiting))
            heard = [await loop.sock_recv(systemd, 100) for _ in range(3)]
            os.kill(os.getpid(), signal.SIGTERM)
            await running
            while heard[-1] != b"STOPPING=1":
                heard.append(await loop.sock_recv(systemd, 100))

    assert heard[:3] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]


def test_without_systemd_nothing_is_sent_and_nothing_breaks(tmp_path: Path) -> None:
    assert notify("READY=1", {}) is False
    assert notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "absent")}) is False
    assert watchdog_interval_s({}) is None
    assert watchdog_interval_s({"WATCHDOG_USEC": "10000000"}) == 5
    assert watchdog_interval_s({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}) is None
