"""HAProxy and its parent are killed while visitors connect every few milliseconds."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kakuremichi.dataplane.haproxy import reconcile
from kakuremichi.dataplane.haproxy.desired import Frontend
from kakuremichi.dataplane.haproxy.diff import Route
from kakuremichi.dataplane.haproxy.proxy import Haproxy
from kakuremichi.model.ids import ServiceId
from support.haproxy import Gateway, Knocking, ask, gateway, get, knocking, service, status, targets, until


@pytest.fixture
async def site(run_dir: Path, free_port: Callable[[], int]) -> AsyncIterator[Gateway]:
    """Service a with one target, its files saved; the target outlives all that happens."""
    async with targets(free_port, "t") as (target,), gateway(run_dir, f"80=127.0.0.1:{free_port()}") as rig:
        assert (await rig.reconciler.put(service("a", target.server()))).errors == ()
        await rig.reconciler.flush()
        yield rig


@asynccontextmanager
async def reconciling(rig: Gateway) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(rig.reconciler.run(stop))
        yield
        stop.set()


async def came_back(rig: Gateway, before: tuple[int, int]) -> tuple[int, int]:
    """The new processes, after some more connections have reached them."""
    async with asyncio.timeout(20):
        after = await rig.other_processes(before)
    await asyncio.sleep(0.2)
    return after


def assert_nobody_was_refused(count: Knocking) -> None:
    """Connections that a killed process had in hand are lost in any case; nobody is refused, later ones wait."""
    print(f"answered {count.answered}, lost in hand {count.lost}, slowest {count.slowest_s:.3f} s")  # noqa: T201
    assert (count.refused, count.other) == (0, [])
    assert count.answered > 0
    assert count.lost < 20


@pytest.mark.parametrize("victim", ["master", "worker"])
async def test_killing_haproxy_refuses_nobody_and_everything_is_in_place_after(site: Gateway, victim: str) -> None:
    before = await site.processes()
    async with knocking(site.port, "a.test") as count:
        os.kill(before[0 if victim == "master" else 1], signal.SIGKILL)
        await came_back(site, before)

    assert_nobody_was_refused(count)
    assert (await site.reconciler.compare()).outcomes == ()


async def test_a_change_that_died_with_haproxy_before_it_was_saved_is_made_again(
    site: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "SAVE_S", 3600.0)
    async with reconciling(site):
        before = await site.processes()
        await site.reconciler.put(service("late"))
        os.kill(before[1], signal.SIGKILL)
        await site.other_processes(before)

        assert await until(lambda: _knows(site, "late"))


async def _knows(rig: Gateway, name: str) -> bool:
    return f"{name}.test" in (await Haproxy(rig.layout).read()).routes


@pytest.mark.root  # taking descriptors out of a process that is not a child: Yama may ask for CAP_SYS_PTRACE
async def test_a_holder_that_is_killed_leaves_haproxy_running_and_the_next_one_adopts_it(site: Gateway) -> None:
    before = await site.processes()
    async with knocking(site.port, "a.test") as count:
        site.end_holder(signal.SIGKILL)
        assert await status(site.port, get("a.test")) == 200

        site.start_holder()
        assert await until(lambda: _said(site, f"haproxy {before[0]} adopted with sockets 80"))
        assert await site.processes() == before

        for victim in (0, 1):  # twice, as the second one is a child of the new holder
            os.kill(before[victim], signal.SIGKILL)
            before = await came_back(site, before)

    assert_nobody_was_refused(count)


async def _said(rig: Gateway, text: str) -> bool:
    return text in rig.said()


async def test_haproxy_may_die_while_no_holder_is_there_and_the_next_one_starts_it(site: Gateway) -> None:
    before = await site.processes()
    site.end_holder(signal.SIGKILL)
    os.kill(before[0], signal.SIGKILL)

    site.start_holder()

    await site.other_processes(before)
    assert await status(site.port, get("a.test")) == 200


async def test_a_second_holder_in_the_same_directory_ends_with_a_sentence(site: Gateway) -> None:
    first = site.holder
    site.start_holder()
    second = site.holder
    assert second is not None

    assert await asyncio.to_thread(second.wait, 10) == 1

    site.holder = first
    assert "another holder is running in this directory" in site.said()


async def test_a_port_of_somebody_else_is_named_and_ends_the_holder(
    run_dir: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", port)
    async with server:
        rig = Gateway(run_dir, (f"80=127.0.0.1:{port}",), Frontend())
        await rig.reconciler.full(())
        rig.start_holder()
        assert rig.holder is not None
        assert await asyncio.to_thread(rig.holder.wait, 20) == 1
    assert f"bind 80: 127.0.0.1 port {port}: Address already in use" in rig.said()


async def test_sigterm_stops_haproxy_and_new_connections_are_refused(site: Gateway) -> None:
    master, _ = await site.processes()

    await asyncio.to_thread(site.end_holder)

    assert not Path(f"/proc/{master}").exists()  # noqa: ASYNC240  # procfs does not block
    with pytest.raises(ConnectionRefusedError):
        await ask(site.port, get("a.test"))


async def test_leave_running_ends_the_holder_only(site: Gateway) -> None:
    before = await site.processes()
    site.end_holder(signal.SIGKILL)
    site.start_holder("--leave-running")
    assert await until(lambda: _said(site, "adopted"))

    await asyncio.to_thread(site.end_holder)

    assert await site.processes() == before
    assert await status(site.port, get("a.test")) == 200


async def test_reloads_under_load_lose_nothing(site: Gateway) -> None:
    async def reload() -> None:
        before = await site.processes()
        assert site.holder is not None
        site.holder.send_signal(signal.SIGHUP)

        async def is_new() -> bool:
            return (await site.processes())[1] != before[1]

        assert await until(is_new)

    async with knocking(site.port, "a.test") as count:
        await repeated(reload, 4)

    assert (count.refused, count.lost, count.other) == (0, 0, [])
    assert (await Haproxy(site.layout).read()).routes == {"a.test": {Route(0, ServiceId("a"))}}


async def repeated(act: Callable[[], Awaitable[None]], times: int) -> None:
    for _ in range(times):
        await act()
        await asyncio.sleep(0.1)


async def test_systemd_sockets_are_taken_over(run_dir: Path, free_port: Callable[[], int]) -> None:
    """As systemd does it: the socket is descriptor 3, and the variables name our own process."""
    port = free_port()
    rig = Gateway(run_dir, (f"80=127.0.0.1:{port}",), Frontend())
    await rig.reconciler.full(())
    code = (
        "import os, socket, sys\n"
        f"s = socket.create_server(('127.0.0.1', {port}))\n"
        "os.dup2(s.fileno(), 3)\nos.set_inheritable(3, True)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='80')\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'kakuremichi.dataplane.haproxy.holder',"
        f" '--grace', '0.2', '--dir', {str(run_dir)!r}])\n"
    )
    rig.start_command("-c", code)
    try:
        async with asyncio.timeout(20):
            await rig.processes()
        assert await status(port, get("nobody.test")) == 404
    finally:
        await asyncio.to_thread(rig.end_holder)
